// A VM's memory over time: heatmap and working set.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <charconv>
#include <cstdlib>

#include "base/unique_fd.h"
#include "cli/commands.h"
#include "cli/document.h"
#include "cli/heatmap.h"
#include "cli/views.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kUsualWidth = 80;
constexpr std::size_t kLeastWidth = 20;
constexpr std::size_t kMostWidth = 500;

// Of the terminal; where there is none, what COLUMNS says. What is absurd is not believed.
std::size_t output_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0)
    return std::clamp<std::size_t>(size.ws_col, kLeastWidth, kMostWidth);
  const char* given = std::getenv("COLUMNS");
  const std::string_view text = given ? given : "";
  std::size_t width = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), width);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || width == 0) return kUsualWidth;
  return std::clamp(width, kLeastWidth, kMostWidth);
}

Result<> write_file(const std::string& path, const std::string& content) {
  const UniqueFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
  if (!file.valid()) return errno_failure("create", path);
  for (std::size_t done = 0; done < content.size();) {
    const ssize_t written = ::write(file.get(), content.data() + done, content.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return errno_failure("write", path);
    done += static_cast<std::size_t>(written);
  }
  return {};
}

}  // namespace

ExitCode run_vm_heatmap(Session& session, const std::string& vm, const HeatmapArguments& arguments) {
  const bool svg = arguments.file.ends_with(".svg");
  if (!arguments.file.empty() && !svg && !arguments.file.ends_with(".png")) {
    session.error("--file '" + arguments.file + "' ends neither with .svg nor with .png");
    return ExitCode::kUsage;
  }
  return session.repeat([&] {
    const Fetched document =
        session.get("/v1/vms/" + percent_encoded(vm) + "/heatmap?last=" + percent_encoded(arguments.last));
    if (!document) return document.error();
    if (arguments.file.empty() || session.options().format != Format::kTable) {
      session.show(*document, [](const json::value& map, bool colour) {
        return heatmap_text(heat_grid(map), output_width(), colour);
      });
    }
    if (arguments.file.empty()) return ExitCode::kOk;
    const Drawing drawing = heatmap_drawing(heat_grid(*document));
    const Result<std::string> picture = svg ? Result<std::string>(drawing.svg()) : drawing.png();
    const Result<> written = picture ? write_file(arguments.file, *picture) : Result<>(Failure{picture.error()});
    if (!written) {
      session.error(written.error().message());
      return ExitCode::kFailed;
    }
    session.note("written to " + arguments.file);
    return ExitCode::kOk;
  });
}

ExitCode run_vm_working_set(Session& session, const std::string& vm, const std::string& last) {
  return session.repeat([&] {
    const Fetched document =
        session.get("/v1/vms/" + percent_encoded(vm) + "/working-set?last=" + percent_encoded(last));
    if (!document) return document.error();
    session.show(*document, working_set_view);
    return ExitCode::kOk;
  });
}

}  // namespace tidepool::cli
