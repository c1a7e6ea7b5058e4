// What every command needs: the agent, the way to print, and the global options.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "cli/api_client.h"
#include "cli/exit_code.h"

namespace boost::json {
class value;
}

namespace tidepool::cli {

enum class Format { kTable, kJson, kYaml };

struct GlobalOptions {
  Format format = Format::kTable;
  std::optional<std::chrono::milliseconds> watch;  // repeat every so often
  std::optional<std::chrono::milliseconds>
      timeout;  // for an answer (10 s by default), and for an operation's end (no limit by default)
  bool plan = false;
  bool yes = false;
  bool no_color = false;
  bool quiet = false;
  std::string socket;
};

// An answer, or the code to exit with; the reason was printed then.
using Fetched = tl::expected<boost::json::value, ExitCode>;
using View = std::function<std::string(const boost::json::value& document, bool colour)>;

class Session {
 public:
  explicit Session(GlobalOptions options);

  const GlobalOptions& options() const { return options_; }

  Fetched get(std::string_view target);
  // Says nothing where nobody answers.
  Fetched try_get(std::string_view target);
  // `also_good`: one more status that is an answer, not an error.
  Fetched send(std::string_view method, std::string_view target, std::string_view body = {}, unsigned also_good = 0);
  // A list from its first to its last page.
  Fetched get_all(std::string_view target);

  // In the format that was asked for. The view makes the table.
  void show(const boost::json::value& document, const View& view);
  // A remark for people: standard error, not with -q.
  void note(std::string_view text) const;
  void error(std::string_view text) const;

  // Runs `once`, and with --watch again and again until it fails.
  ExitCode repeat(const std::function<ExitCode()>& once);
  // Asks before something that is hard to undo. Absent: go on. Without a terminal and without --yes nobody can answer:
  // a usage error.
  std::optional<ExitCode> confirm(std::string_view question) const;
  // Waits for the operation's end, showing its progress on a terminal, and prints how it ended.
  ExitCode follow(boost::json::value operation);

  bool colour() const { return colour_; }

 private:
  Fetched explain_failure(const Reply& reply);
  void show_progress(const boost::json::value& operation, bool last) const;

  GlobalOptions options_;
  ApiClient client_;
  bool colour_;
};

}  // namespace tidepool::cli
