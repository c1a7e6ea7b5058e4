#include "cli/session.h"

#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "base/quantity_text.h"
#include "base/text.h"
#include "cli/document.h"
#include "cli/table.h"
#include "cli/views.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPatience{10'000};
constexpr std::chrono::milliseconds kPollPeriod{200};

ExitCode code_for(unsigned status, const std::string& word) {
  // What makes no sense to the agent was typed here.
  if (status == 400) return ExitCode::kUsage;
  if (status == 403 || status == 422) return ExitCode::kRefused;
  if (word == "timed_out") return ExitCode::kTimedOut;
  if (status == 503) return ExitCode::kUnreachable;
  return ExitCode::kFailed;
}

ExitCode code_for_end(const std::string& state) {
  if (state == "succeeded") return ExitCode::kOk;
  if (state == "refused") return ExitCode::kRefused;
  if (state == "partial") return ExitCode::kTimedOut;
  return ExitCode::kFailed;
}

Peer agent_of(const GlobalOptions& options) {
  Peer peer;
  peer.endpoints = {"unix:" + options.socket};
  peer.timeout = options.timeout.value_or(kPatience);
  return peer;
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

Session::Session(const GlobalOptions& options) : Session(options, agent_of(options)) {}

Session::Session(GlobalOptions options, Peer peer)
    : options_(std::move(options)),
      client_(std::move(peer)),
      colour_(!options_.no_color && !std::getenv("NO_COLOR") && ::isatty(STDOUT_FILENO) == 1) {}

Session Session::controller() const {
  Peer peer;
  peer.who = "controller";
  peer.program = "tidepool-controller";
  peer.endpoints = options_.controllers;
  if (peer.endpoints.empty()) peer.endpoints = {"unix:" + std::string(kControllerSocket)};
  peer.identity = options_.identity;
  peer.timeout = options_.timeout.value_or(kPatience);
  return {options_, std::move(peer)};
}

Fetched Session::get(std::string_view target) {
  return send("GET", target);
}

Fetched Session::try_get(std::string_view target) {
  if (!client_.request("GET", target)) return tl::unexpected(ExitCode::kUnreachable);
  return get(target);
}

Fetched Session::send(std::string_view method, std::string_view target, std::string_view body, unsigned also_good) {
  // An argument may hold any bytes; a document may not.
  const Result<Reply> reply = client_.request(method, target, to_valid_utf8(body));
  if (!reply) {
    error(reply.error().message());
    if (reply.error().code == std::make_error_condition(std::errc::invalid_argument))
      return tl::unexpected(ExitCode::kUsage);
    const bool late = reply.error().code == std::make_error_condition(std::errc::timed_out);
    return tl::unexpected(late ? ExitCode::kTimedOut : ExitCode::kUnreachable);
  }
  if ((reply->status < 200 || reply->status > 299) && reply->status != also_good) return explain_failure(*reply);
  std::optional<json::value> document = parse_document(reply->body);
  if (!document) {
    error("what answers on " + client_.where() + " is not Tidepool's " + client_.peer().who);
    return tl::unexpected(ExitCode::kUnreachable);
  }
  // An answer that is good by exception may still be an error's body.
  if (reply->status == also_good && find(*document, "error")) return explain_failure(*reply);
  return std::move(*document);
}

Fetched Session::explain_failure(const Reply& reply) {
  const std::optional<json::value> document = parse_document(reply.body);
  const json::value* problem = document ? find(*document, "error") : nullptr;
  if (!problem) {
    error("the " + client_.peer().who + " answered with status " + std::to_string(reply.status));
    return tl::unexpected(ExitCode::kFailed);
  }
  if (options_.format != Format::kTable)
    print(options_.format == Format::kJson ? to_pretty_json(*document) : to_yaml(*document));
  const std::string remedy = text_at(*problem, "remedy");
  error(with_remedy((reply.status == 422 ? "refused: " : "") + text_at(*problem, "message"), remedy));
  if (const std::string sum = text_at(*problem, "arithmetic"); !sum.empty()) std::cerr << printable(sum) << "\n";
  if (const json::value* findings = find(*problem, "findings");
      findings && findings->is_array() && !findings->get_array().empty())
    std::cerr << findings_view(*findings, false);
  return tl::unexpected(code_for(reply.status, text_at(*problem, "code")));
}

Fetched Session::get_all(std::string_view target) {
  json::array items;
  std::string cursor;
  // The agent is trusted to end; a bound costs nothing.
  for (int pages = 0; pages < 10'000; ++pages) {
    Fetched page =
        get(std::string(target) + "?limit=1000" + (cursor.empty() ? "" : "&cursor=" + percent_encoded(cursor)));
    if (!page) return page;
    if (const json::value* part = find(*page, "items"); part && part->is_array())
      for (const json::value& item : part->get_array()) items.push_back(item);
    cursor = text_at(*page, "next_cursor");
    if (cursor.empty()) break;
  }
  return json::value(json::object{{"items", std::move(items)}});
}

Fetched Session::get_all_after(const std::string& target) {
  json::array items;
  std::string after;
  for (int pages = 0; pages < 10'000; ++pages) {
    const std::string separator = target.find('?') == std::string::npos ? "?" : "&";
    Fetched page = get(after.empty() ? target : target + separator + "after=" + percent_encoded(after));
    if (!page) return page;
    if (const json::value* part = find(*page, "items"); part && part->is_array())
      for (const json::value& item : part->get_array()) items.push_back(item);
    after = text_at(*page, "next");
    if (after.empty()) break;
  }
  return json::value(json::object{{"items", std::move(items)}});
}

void Session::show(const json::value& document, const View& view) {
  switch (options_.format) {
    case Format::kJson:
      return print(options_.watch ? to_json_line(document) : to_pretty_json(document));
    case Format::kYaml:
      return print((options_.watch ? "---\n" : "") + to_yaml(document));
    case Format::kTable:
      return print(view(document, colour_));
  }
}

void Session::note(std::string_view text) const {
  if (!options_.quiet) std::cerr << printable(text) << "\n";
}

void Session::error(std::string_view text) const {
  std::cerr << "tidectl: " << printable(text) << "\n";
}

ExitCode Session::repeat(const std::function<ExitCode()>& once) {
  if (!options_.watch) return once();
  const bool screen = options_.format == Format::kTable && ::isatty(STDOUT_FILENO) == 1;
  while (true) {
    if (screen) print("\x1b[H\x1b[2J");
    if (const ExitCode code = once(); code != ExitCode::kOk) return code;
    if (!screen && options_.format == Format::kTable) print("\n");
    std::this_thread::sleep_for(*options_.watch);
  }
}

std::optional<ExitCode> Session::confirm(std::string_view question) const {
  if (options_.yes) return std::nullopt;
  if (::isatty(STDIN_FILENO) != 1) {
    error(std::string(question) + " Nobody is there to answer: repeat with --yes");
    return ExitCode::kUsage;
  }
  std::cerr << printable(question) << " [y/N] ";
  std::string answer;
  std::getline(std::cin, answer);
  if (answer == "y" || answer == "Y" || answer == "yes") return std::nullopt;
  error("nothing was done");
  return ExitCode::kRefused;
}

void Session::progress(const std::string& text, bool last) const {
  if (options_.quiet || ::isatty(STDERR_FILENO) != 1) return;
  std::cerr << "\r\x1b[K" << (last ? "" : printable(text)) << std::flush;
}

void Session::show_progress(const json::value& operation, bool last) const {
  constexpr std::size_t kWidth = 30;
  const auto filled = static_cast<std::size_t>(ratio_at(operation, "progress") * kWidth);
  std::string bar(std::min(filled, kWidth), '#');
  bar.resize(kWidth, '.');
  progress(text_at(operation, "kind") + " " + text_at(operation, "vm") + " [" + bar + "] " +
               size_at(operation, "done_bytes") + " of " + size_at(operation, "total_bytes") + "  " +
               text_at(operation, "step"),
           last);
}

ExitCode Session::follow(json::value operation) {
  const auto began = Clock::now();
  const std::string id = text_at(operation, "id");
  while (!flag_at(operation, "finished")) {
    show_progress(operation, false);
    if (options_.timeout && Clock::now() - began > *options_.timeout) {
      show_progress(operation, true);
      show(operation, operation_view);
      error("operation " + id + " goes on; it did not end within " + exact_text(*options_.timeout));
      return ExitCode::kTimedOut;
    }
    std::this_thread::sleep_for(kPollPeriod);
    Fetched next = get("/v1/operations/" + percent_encoded(id));
    if (!next) return next.error();
    operation = std::move(*next);
  }
  show_progress(operation, true);
  if (!options_.quiet || options_.format != Format::kTable) show(operation, operation_view);
  if (const json::value* problem = find(operation, "error"); problem && problem->is_object()) {
    const std::string remedy = text_at(*problem, "remedy");
    error(with_remedy((text_at(operation, "state") == "refused" ? "refused: " : "") + text_at(*problem, "message"),
                      remedy));
  }
  return code_for_end(text_at(operation, "state"));
}

}  // namespace tidepool::cli
