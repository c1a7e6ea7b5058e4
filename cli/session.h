// What every command needs: the agent or the controller, the way to print, and the global options.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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
  std::vector<std::string> controllers;  // endpoints that were given; empty: the default
  std::string identity;                  // see Peer::identity
};

// Of the pool's controller, where none is given.
inline constexpr std::string_view kControllerSocket = "/run/tidepool-controller/controller.sock";

// An answer, or the code to exit with; the reason was printed then.
using Fetched = tl::expected<boost::json::value, ExitCode>;
using View = std::function<std::string(const boost::json::value& document, bool colour)>;

class Session {
 public:
  // Asks the agent.
  explicit Session(const GlobalOptions& options);
  // As this one, but asks the pool's controller.
  Session controller() const;

  const GlobalOptions& options() const { return options_; }

  Fetched get(std::string_view target);
  // Says nothing where nobody answers, and the code is then kUnreachable.
  Fetched try_get(std::string_view target);
  // `also_good`: one more status that is an answer, not an error.
  Fetched send(std::string_view method, std::string_view target, std::string_view body = {}, unsigned also_good = 0);
  // A list from its first to its last page.
  Fetched get_all(std::string_view target);
  // The same as the controller pages: `next` of a page is `after` of the following one. `target` may have a query.
  Fetched get_all_after(const std::string& target);

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
  // One line of progress that the next one replaces, on a terminal only.
  void progress(const std::string& text, bool last) const;
  // Waits for the operation's end, showing its progress on a terminal, and prints how it ended.
  ExitCode follow(boost::json::value operation);

  bool colour() const { return colour_; }

 private:
  Fetched explain_failure(const Reply& reply);
  void show_progress(const boost::json::value& operation, bool last) const;
  Session(GlobalOptions options, Peer peer);

  GlobalOptions options_;
  ApiClient client_;
  bool colour_;
};

}  // namespace tidepool::cli
