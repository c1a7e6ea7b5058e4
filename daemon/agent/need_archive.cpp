#include "daemon/agent/need_archive.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "base/unique_fd.h"
#include "policy/utilisation.h"

namespace tidepool::daemon {
namespace {

constexpr std::string_view kFirstLine = "tidepool-need 1";
constexpr std::size_t kLargestFile = 64u << 20;

// One line per VM: when it was last seen, what it needs, who it is; between them tabs.
bool may_be_key(std::string_view key) {
  return !key.empty() && key.size() <= 255 &&
         std::none_of(key.begin(), key.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; });
}

Result<> write_all(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return errno_failure("write", path);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace

NeedArchive NeedArchive::parse(std::string_view text) {
  NeedArchive archive;
  bool first = true;
  while (!text.empty()) {
    const std::size_t end_of_line = text.find('\n');
    const std::string_view line = text.substr(0, end_of_line);
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (std::exchange(first, false)) {
      if (line == kFirstLine) continue;
      archive.lost_ = 1;  // another version's, or no such file at all
      return archive;
    }
    const std::size_t tab = line.find('\t');
    const std::size_t second = tab == std::string_view::npos ? tab : line.find('\t', tab + 1);
    std::int64_t seen = 0;
    // A line without its end has been cut.
    bool good =
        end_of_line != std::string_view::npos && second != std::string_view::npos && archive.vms_.size() < kMostVms;
    if (good) {
      const auto [end, error] = std::from_chars(line.data(), line.data() + tab, seen);
      good = error == std::errc{} && end == line.data() + tab && may_be_key(line.substr(second + 1)) &&
             policy::Utilisation::parse(line.substr(tab + 1, second - tab - 1)).has_value();
    }
    if (!good) {
      ++archive.lost_;
      continue;
    }
    archive.vms_[std::string(line.substr(second + 1))] = {std::string(line.substr(tab + 1, second - tab - 1)), seen};
  }
  return archive;
}

Result<NeedArchive> NeedArchive::load(const std::string& path) {
  const UniqueFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  if (!file.valid() && errno == ENOENT) return NeedArchive{};
  if (!file.valid()) return errno_failure("open", path);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > static_cast<off_t>(kLargestFile))
    return failure(std::errc::invalid_argument, "read", path, "it is no file that the agent wrote; move it away");
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t have = 0;
  while (have < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + have, text.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("read", path);
    if (got == 0) break;
    have += static_cast<std::size_t>(got);
  }
  text.resize(have);
  return parse(text);
}

std::string NeedArchive::find(const std::string& key) const {
  const auto found = vms_.find(key);
  return found == vms_.end() ? std::string() : found->second.need;
}

void NeedArchive::put(const std::string& key, std::string need, std::int64_t seen) {
  if (!may_be_key(key) || need.empty()) return;
  vms_[key] = {std::move(need), seen};
  if (vms_.size() <= kMostVms) return;
  vms_.erase(std::min_element(vms_.begin(), vms_.end(),
                              [](const auto& a, const auto& b) { return a.second.seen < b.second.seen; }));
}

std::string NeedArchive::text() const {
  std::string text(kFirstLine);
  text += '\n';
  for (const auto& [key, vm] : vms_) text += std::to_string(vm.seen) + '\t' + vm.need + '\t' + key + '\n';
  return text;
}

Result<> NeedArchive::write(const std::string& path, std::string_view text) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  const std::string fresh = path + ".new";
  Result<> whole = [&]() -> Result<> {
    const UniqueFd file{::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)};
    if (!file.valid()) return errno_failure("create", fresh, "see policy.need_archive");
    if (auto written = write_all(file.get(), text, fresh); !written) return written;
    if (::fsync(file.get()) != 0) return errno_failure("write", fresh);
    if (::rename(fresh.c_str(), path.c_str()) != 0) return errno_failure("rename to", path);
    return {};
  }();
  if (!whole) {
    ::unlink(fresh.c_str());
    return whole;
  }
  const UniqueFd directory{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!directory.valid() || ::fsync(directory.get()) != 0) return errno_failure("write", folder.string());
  return {};
}

}  // namespace tidepool::daemon
