#include "cli/views.h"

#include <array>
#include <boost/json.hpp>
#include <cctype>
#include <cstdio>

#include "base/quantity_text.h"
#include "base/text.h"
#include "cli/document.h"
#include "cli/table.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

const json::array& items_of(const json::value& document, std::string_view path) {
  static const json::array kNone;
  const json::value* at = find(document, path);
  return at && at->is_array() ? at->get_array() : kNone;
}

std::string one_digit(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f", value);
  return text.data();
}

// "21us", "1.4ms"
std::string nanoseconds_at(const json::value& document, std::string_view path) {
  const std::uint64_t ns = number_at(document, path);
  if (ns == 0) return "-";
  if (ns < 1'000'000) return std::to_string((ns + 500) / 1000) + "us";
  return one_digit(static_cast<double>(ns) / 1e6) + "ms";
}

// "0s", "4.2s", "3m 20s": how long something takes.
std::string seconds_of(std::uint64_t ms) {
  if (ms == 0) return "0s";
  if (ms < 60'000) return one_digit(static_cast<double>(ms) / 1000) + "s";
  return std::to_string(ms / 60'000) + "m " + std::to_string(ms % 60'000 / 1000) + "s";
}

// "2m", "1500ms": a setting, as it was given.
std::string duration_at(const json::value& document, std::string_view path) {
  return exact_text(std::chrono::milliseconds{number_at(document, path)});
}

Paint paint_of_state(const std::string& state) {
  if (state == "ok" || state == "succeeded") return Paint::kGood;
  if (state == "integrity" || state == "gone" || state == "failed" || state == "refused") return Paint::kBad;
  return Paint::kWarn;
}

Cell stall_cell(const json::value& vm) {
  const double stall = ratio_at(vm, "stall");
  const double budget = ratio_at(vm, "settings.stall_budget");
  return {short_share_text(stall) + "/" + short_share_text(budget), stall > budget ? Paint::kBad : Paint::kNone};
}

// "ok", or with why nothing moves: "ok (guarantee)".
Cell state_cell(const json::value& vm) {
  const std::string state = text_at(vm, "state");
  std::string shown = state;
  std::string reasons;
  for (const json::value& each : items_of(vm, "blocked")) reasons += (reasons.empty() ? "" : ",") + text_at(each, "");
  if (!reasons.empty()) shown += " (" + reasons + ")";
  return {shown, paint_of_state(state)};
}

// "2026-01-31 12:00:05Z" of "2026-01-31T12:00:05.250Z".
std::string clock_of(const std::string& at) {
  return at.size() >= 19 ? at.substr(0, 10) + " " + at.substr(11, 8) + "Z" : at;
}

}  // namespace

std::string with_remedy(std::string message, const std::string& remedy) {
  if (remedy.empty()) return message;
  if (std::isupper(static_cast<unsigned char>(remedy.front())) == 0) return message + " (" + remedy + ")";
  return message + (message.ends_with('.') ? " " : ". ") + remedy;
}

std::string doctor_view(const json::value& document, bool hints, bool colour) {
  Table table({});
  std::string advice;
  for (const json::value& row : items_of(document, "rows")) {
    const std::string verdict = text_at(row, "verdict");
    Cell word("?");
    if (verdict == "ok") word = {"OK", Paint::kGood};
    if (verdict == "safe") word = {"SAFE", Paint::kGood};
    if (verdict == "warn") word = {"WARN", Paint::kWarn};
    if (verdict == "fail") word = {"FAIL", Paint::kBad};
    table.add({word, text_at(row, "check"), text_at(row, "detail")});
    const std::string hint = text_at(row, "hint");
    if (!hint.empty()) advice += "  " + printable(text_at(row, "check")) + ": " + printable(hint) + "\n";
  }
  std::string text = table.text(colour);
  if (hints && !advice.empty()) text += "\nWhat would help:\n" + advice;
  if (!hints && !advice.empty()) text += "\n--fix-hints tells what would help.\n";
  return text;
}

std::string health_view(const json::value& document, bool colour) {
  Table table({});
  for (const json::value& check : items_of(document, "checks")) {
    const bool healthy = flag_at(check, "healthy");
    table.add({Cell(healthy ? "OK" : "SICK", healthy ? Paint::kGood : Paint::kBad), text_at(check, "name"),
               text_at(check, "detail")});
  }
  return table.text(colour);
}

std::string host_view(const json::value& document, bool colour) {
  Table table({});
  table.add({"host", text_at(document, "hostname")});
  table.add({"dram", size_at(document, "dram_bytes") + " (available " + size_at(document, "available_bytes") +
                         ", reserve " + size_at(document, "reserve_bytes") + ")"});
  table.add({"promised", size_at(document, "promised_bytes")});
  table.add({"touched", size_at(document, "touched_bytes")});
  table.add({"resident", size_at(document, "resident_bytes")});
  table.add({"far", size_at(document, "far_bytes") + " of at most " + size_at(document, "max_far_bytes")});
  table.add({"overhead",
             size_at(document, "overhead.total_bytes") + " (pool " + size_at(document, "overhead.pool_bytes") +
                 ", kernel " + size_at(document, "overhead.kernel_bytes") + ", metadata " +
                 size_at(document, "overhead.metadata_bytes") + ", frames " +
                 size_at(document, "overhead.frames_bytes") + ", agent " + size_at(document, "overhead.agent_bytes") +
                 ", keeper " + size_at(document, "overhead.keeper_bytes") + ")"});
  const double touched = static_cast<double>(number_at(document, "touched_bytes"));
  const double saved = static_cast<double>(ratio_at(document, "net_saved_bytes"));
  table.add({"net saved", size_at(document, "net_saved_bytes") +
                              (touched > 0 ? " = " + short_share_text(saved / touched) + " of touched" : "")});
  table.add({"pressure", text_at(document, "pressure_level")});
  const bool frozen = flag_at(document, "frozen");
  const std::string by = text_at(document, "frozen_by");
  table.add({"movement",
             frozen ? Cell("frozen" + (by.empty() ? "" : " by " + by), Paint::kWarn) : Cell("free", Paint::kGood)});
  return table.text(colour);
}

std::string status_view(const json::value& document, bool colour) {
  Table table({});
  table.add({"agent", text_at(document, "version") + ", pid " + text_at(document, "pid") + ", since " +
                          clock_of(text_at(document, "started"))});
  table.add({"mode", text_at(document, "mode")});
  table.add({"VMs", text_at(document, "vms_active") + " active, " + text_at(document, "vms_observed") + " observed"});
  table.add({"descriptors", text_at(document, "fd_holder")});
  const bool reloaded = flag_at(document, "config_last_reload_ok");
  table.add({"configuration",
             reloaded ? Cell("ok", Paint::kGood) : Cell("last reload failed; tidectl config show", Paint::kBad)});
  const std::uint64_t shortfall = number_at(document, "evacuation_shortfall_bytes");
  table.add({"evacuation", shortfall == 0
                               ? Cell("possible", Paint::kGood)
                               : Cell("short of " + size_at(document, "evacuation_shortfall_bytes"), Paint::kBad)});
  std::string text = table.text(colour);
  if (const json::value* host = find(document, "host")) text += "\n" + host_view(*host, colour);
  return text;
}

std::string evacuation_view(const json::value& document, bool colour) {
  const bool possible = flag_at(document, "possible");
  std::string text = possible ? "POSSIBLE " : "REFUSED ";
  text += "far " + size_at(document, "far_bytes") + ", room " + size_at(document, "available_bytes");
  if (!possible) text += ", short of " + size_at(document, "shortfall_bytes");
  text += ", about " + seconds_of(number_at(document, "estimate_ms")) + "\n";
  Table table({"VM", "FAR", "TIME", "OBSTACLE"});
  for (const json::value& vm : items_of(document, "vms"))
    table.add({text_at(vm, "vm"), size_at(vm, "far_bytes"), seconds_of(number_at(vm, "estimate_ms")),
               Cell(text_at(vm, "obstacle"), Paint::kWarn)});
  return table.empty() ? text : text + table.text(colour);
}

namespace {

// "zram, 1.2G of 4.0G free", and what its pages take and cost.
void add_kernel_tier(const json::value& tier, Table& table) {
  const std::string refused = text_at(tier, "refused");
  const std::string kind = text_at(tier, "kind");
  if (kind == "none") return table.add({"kernel tier", Cell("none: this host has no swap", Paint::kFaint)});
  table.add({"kernel tier", Cell(kind + ", " + size_at(tier, "free_bytes") + " of " + size_at(tier, "capacity_bytes") +
                                     " free" + (refused.empty() ? "" : "; not used: " + refused),
                                 refused.empty() ? Paint::kNone : Paint::kWarn)});
  table.add({"  holds", size_at(tier, "stored_bytes") + " in " + size_at(tier, "dram_bytes") + " of DRAM, " +
                            size_at(tier, "far_bytes") + " of it of workloads"});
  const std::string trouble = text_at(tier, "trouble");
  table.add({"  a page costs", number_at(tier, "fault_cost_ns") == 0
                                   ? (trouble.empty() ? "not measured yet" : "not measured: " + trouble)
                                   : nanoseconds_at(tier, "fault_cost_ns") + " to wait for, " +
                                         nanoseconds_at(tier, "store_cost_ns") + " to store, by a probe"});
}

void add_controller(const json::value& document, Table& table) {
  const json::value* controller = find(document, "controller");
  if (controller == nullptr || !controller->is_object()) return;
  const bool answers = text_at(*controller, "answers") == "true";
  std::string says = answers ? "answers" : "away for " + nanoseconds_at(*controller, "silent_ns");
  if (const std::string why = text_at(*controller, "why"); !why.empty()) says += " (" + why + ")";
  table.add({"controller", Cell(says, answers ? Paint::kGood : Paint::kBad)});
  table.add(
      {"  slices", size_at(*controller, "held_bytes") + " held of a share of " + size_at(*controller, "share_bytes")});
  if (number_at(*controller, "to_give_back_bytes") != 0)
    table.add({"  to give back", size_at(*controller, "to_give_back_bytes") + "; " +
                                     size_at(document, "closing_bytes") + " of pages on their way home"});
  if (const std::string refusal = text_at(*controller, "refusal"); !refusal.empty()) table.add({"  no more", refusal});
  if (number_at(*controller, "unknown_slices") != 0)
    table.add({"  unknown to it", Cell(text_at(*controller, "unknown_slices") + " slices, kept", Paint::kBad)});
  if (number_at(*controller, "strays") != 0)
    table.add({"  left behind",
               Cell(text_at(*controller, "strays") + " VMs that are not here have slices (tidectl pool vm forget)",
                    Paint::kBad)});
}

void add_servers(const json::value& document, Table& table) {
  const json::array& servers = items_of(document, "servers");
  if (servers.empty()) return;
  add_controller(document, table);
  const std::uint64_t degraded = number_at(document, "degraded_slices");
  const std::uint64_t lost = number_at(document, "lost_slices");
  table.add({"slices",
             Cell(text_at(document, "slices") + ", " + std::to_string(degraded) + " with fewer replicas than wanted, " +
                      std::to_string(lost) + " lost with " + text_at(document, "lost_pages_total") + " pages",
                  degraded + lost == 0 ? Paint::kGood : Paint::kBad)});
  if (number_at(document, "filling_slices") != 0)
    table.add({"  being copied",
               text_at(document, "filling_slices") + ", " + size_at(document, "rebuild_remaining_bytes") + " to go"});
  if (number_at(document, "expired_slices") != 0)
    table.add({"  lease is over",
               Cell(text_at(document, "expired_slices") + " take no pages until it is renewed", Paint::kBad)});
  for (const json::value& server : servers) {
    const bool up = text_at(server, "up") == "true";
    const bool draining = text_at(server, "draining") == "true";
    std::string says = up ? (draining ? "draining" : "up") : "away";
    if (const std::string why = text_at(server, "why"); !why.empty()) says += " (" + why + ")";
    says += ", " + text_at(server, "slices") + " slices";
    if (number_at(server, "typical_read_ns") != 0) says += ", reads in " + nanoseconds_at(server, "typical_read_ns");
    for (const auto& [key, what] : {std::pair{"reads_in_place_total", "reads in place"},
                                    {"wrong_answers_total", "wrong answers"},
                                    {"restarts_total", "restarts"}})
      if (number_at(server, key) != 0) says += ", " + text_at(server, key) + " " + what;
    table.add({"server " + text_at(server, "name"), Cell(says, up && !draining ? Paint::kGood : Paint::kBad)});
  }
}

}  // namespace

std::string pool_view(const json::value& document, bool colour) {
  Table table({});
  const double capacity = ratio_at(document, "capacity_bytes");
  const double used = ratio_at(document, "used_bytes");
  const double stored = ratio_at(document, "stored_bytes");
  table.add({"store", text_at(document, "store") + ", " + text_at(document, "backing")});
  table.add({"used", size_at(document, "used_bytes") + " of " + size_at(document, "capacity_bytes") +
                         (capacity > 0 ? " (" + short_share_text(used / capacity) + ")" : "")});
  table.add({"holds", size_at(document, "stored_bytes") + " in " + text_at(document, "pages") + " pages" +
                          (stored > 0 && used > 0 ? ", " + one_digit(stored / used) + ":1" : "")});
  table.add({"incompressible", text_at(document, "incompressible_total") + " pages turned away"});
  const std::uint64_t failures = number_at(document, "integrity_failures_total");
  table.add({"integrity", Cell(std::to_string(failures) + " failures", failures == 0 ? Paint::kGood : Paint::kBad)});
  add_servers(document, table);
  if (const json::value* kernel = find(document, "kernel")) add_kernel_tier(*kernel, table);
  return table.text(colour);
}

std::string vms_view(const json::value& document, bool colour) {
  Table table({"NAME", "MODE", "BY", "PROMISED", "RESIDENT", "FAR", "GUAR", "STALL/BUDGET", "STATE"});
  for (const json::value& vm : items_of(document, "items"))
    table.add({text_at(vm, "name"), text_at(vm, "settings.mode"), text_at(vm, "mechanism"),
               size_at(vm, "memory.promised_bytes"), size_at(vm, "memory.in_dram_bytes"),
               size_at(vm, "memory.far_bytes"), size_at(vm, "settings.guarantee_bytes"), stall_cell(vm),
               state_cell(vm)});
  for (const json::value& process : items_of(document, "refused"))
    table.add({text_at(process, "name"), Cell("refused", Paint::kWarn), "-", "-", "-", "-", "-", "-",
               text_at(process, "reason")});
  return table.text(colour);
}

std::string vm_view(const json::value& document, bool colour) {
  Table table({});
  table.add({"name", text_at(document, "name")});
  if (const std::string uuid = text_at(document, "uuid"); !uuid.empty()) table.add({"uuid", uuid});
  table.add({"process",
             text_at(document, "exe") + ", pid " + text_at(document, "pid") + ", uid " + text_at(document, "uid")});
  table.add({"state", state_cell(document)});
  if (flag_at(document, "held")) table.add({"held", Cell(text_at(document, "hold_reason"), Paint::kWarn)});
  table.add({"mode", text_at(document, "settings.mode") + ", class " + text_at(document, "settings.class")});
  table.add({"moved by", text_at(document, "mechanism")});
  table.add({"guarantee", size_at(document, "settings.guarantee_bytes")});
  table.add({"limit", size_at(document, "settings.limit_bytes")});
  table.add({"stall/budget", stall_cell(document)});
  table.add({"min cold age", duration_at(document, "settings.min_cold_age_ms")});
  for (const char* state : {"promised", "in_dram", "untouched", "resident", "clean_copy", "moving_out", "far",
                            "fetching", "released", "excluded"})
    table.add({std::string("  ") + state, size_at(document, std::string("memory.") + state + "_bytes")});
  table.add({"of it in the kernel's tier", size_at(document, "far_swapped_bytes")});
  table.add({"stored as", size_at(document, "far_stored_bytes")});
  table.add({"metadata", size_at(document, "metadata_bytes")});
  table.add({"faults", text_at(document, "faults_total") + ", " + one_digit(ratio_at(document, "faults_per_second")) +
                           "/s, p50 " + nanoseconds_at(document, "fault_p50_ns") + ", p99 " +
                           nanoseconds_at(document, "fault_p99_ns")});
  table.add({"moved", "out " + size_at(document, "demoted_bytes_total") + ", home " +
                          size_at(document, "promoted_bytes_total")});
  const std::string origin = text_at(document, "origin");
  const std::string how = origin == "rule" ? ", by rule" : origin == "handed-off" ? ", handed itself off" : "";
  table.add({"adopted", clock_of(text_at(document, "adopted_at")) + how});
  std::string text = table.text(colour);
  Table mappings({"MAPPING", "SIZE", "KIND", "PAGE", "DROPPED BY", "WHAT"});
  for (const json::value& each : items_of(document, "mappings")) {
    std::array<char, 48> range{};
    std::snprintf(range.data(), range.size(), "%llx-%llx",
                  static_cast<unsigned long long>(number_at(each, "range.start")),
                  static_cast<unsigned long long>(number_at(each, "range.end")));
    mappings.add({range.data(), size_at(each, "size_bytes"), text_at(each, "kind"), size_at(each, "page_size_bytes"),
                  text_at(each, "dropper"), text_at(each, "description")});
  }
  return mappings.empty() ? text : text + "\n" + mappings.text(colour);
}

std::string findings_view(const json::value& findings, bool colour) {
  Table table({});
  if (findings.is_array()) {
    for (const json::value& each : findings.get_array()) {
      const std::string kind = text_at(each, "kind");
      const Paint paint = kind == "refusal" ? Paint::kBad : kind == "warning" ? Paint::kWarn : Paint::kFaint;
      std::string remedy = text_at(each, "remedy");
      if (flag_at(each, "forceable")) remedy += (remedy.empty() ? "" : "; ") + ("or --force " + text_at(each, "code"));
      table.add({Cell(kind, paint), text_at(each, "code"),
                 text_at(each, "message") + (remedy.empty() ? "" : " -> " + remedy)});
    }
  }
  return table.text(colour);
}

std::string adoption_view(const json::value& document, bool colour) {
  const bool eligible = flag_at(document, "eligible");
  std::string text = (eligible ? "ELIGIBLE " : "REFUSED ") + printable(text_at(document, "name")) + ": " +
                     printable(text_at(document, "exe")) + ", pid " + text_at(document, "pid") + "\n";
  for (const json::value& each : items_of(document, "mappings"))
    text += "  " + size_at(each, "size_bytes") + " " + text_at(each, "kind") + " " +
            printable(text_at(each, "description")) + "\n";
  if (const json::value* findings = find(document, "findings")) text += findings_view(*findings, colour);
  return text;
}

std::string change_view(const json::value& document, bool colour) {
  std::string text;
  if (!flag_at(document, "allowed")) text += "REFUSED ";
  text += printable(with_remedy(text_at(document, "arithmetic"), text_at(document, "remedy")));
  if (!text.empty()) text += "\n";
  Table table({});
  for (const json::value& line : items_of(document, "changes"))
    table.add({text_at(line, "what"), text_at(line, "before"), "->", text_at(line, "after")});
  if (flag_at(document, "allowed")) text += table.empty() ? "nothing to change\n" : table.text(colour);
  return text;
}

std::string operation_view(const json::value& document, bool colour) {
  const std::string state = text_at(document, "state");
  Table table({});
  const bool moved = number_at(document, "total_bytes") != 0;
  table.add({text_at(document, "kind"), text_at(document, "vm"), Cell(state, paint_of_state(state)),
             moved ? size_at(document, "done_bytes") + " of " + size_at(document, "total_bytes") : "",
             text_at(document, "id")});
  std::string text = table.text(colour);
  if (const json::value* findings = find(document, "findings")) text += findings_view(*findings, colour);
  return text;
}

std::string events_view(const json::value& document, bool header, bool colour) {
  Table table(header ? std::vector<std::string>{"SEQ", "AT", "KIND", "MESSAGE"} : std::vector<std::string>{});
  for (const json::value& each : items_of(document, "items"))
    table.add(
        {text_at(each, "sequence"), clock_of(text_at(each, "at")), text_at(each, "kind"), text_at(each, "message")});
  return table.text(colour);
}

std::string decisions_view(const json::value& document, bool header, bool colour) {
  Table table(header ? std::vector<std::string>{"SEQ", "AT", "VM", "ACTION", "BYTES", "REASON", "CARRIED OUT", "DETAIL"}
                     : std::vector<std::string>{});
  for (const json::value& each : items_of(document, "items")) {
    const std::string vm = text_at(each, "vm");
    table.add({text_at(each, "sequence"), clock_of(text_at(each, "at")), vm.empty() ? "(host)" : vm,
               text_at(each, "action"), size_at(each, "bytes"), text_at(each, "reason"),
               flag_at(each, "carried_out") ? Cell("yes", Paint::kGood) : Cell("no", Paint::kFaint),
               text_at(each, "detail")});
  }
  return table.text(colour);
}

std::string explanation_view(const json::value& document, bool) {
  std::string text;
  for (const json::value& each : items_of(document, "sentences")) text += printable(text_at(each, "")) + "\n";
  return text;
}

std::string config_view(const json::value& document, bool colour) {
  std::string text =
      "# " + printable(text_at(document, "path").empty() ? "built-in defaults" : text_at(document, "path")) + "\n";
  if (!flag_at(document, "last_reload_ok"))
    text += "# last reload failed: " + printable(text_at(document, "last_reload_error")) + "\n";
  for (const json::value& key : items_of(document, "restart_pending"))
    text += "# waits for a restart: " + printable(text_at(key, "")) + "\n";
  Table table({});
  if (const json::value* values = find(document, "values"); values && values->is_object()) {
    for (const auto& [key, value] : values->get_object()) {
      const std::string shown = text_at(value, "");
      table.add({std::string(key), shown.empty() ? Cell("(none)", Paint::kFaint) : Cell(shown)});
    }
  }
  return text + table.text(colour);
}

std::string top_view(const json::value& host, const json::value& vms, bool colour) {
  std::string text = "promised " + size_at(host, "promised_bytes") + "  touched " + size_at(host, "touched_bytes") +
                     "  resident " + size_at(host, "resident_bytes") + "  far " + size_at(host, "far_bytes") +
                     "  overhead " + size_at(host, "overhead.total_bytes") + "  net saved " +
                     size_at(host, "net_saved_bytes") + "\n" + "available " + size_at(host, "available_bytes") +
                     " of " + size_at(host, "dram_bytes") + "  pressure " + text_at(host, "pressure_level") +
                     (flag_at(host, "frozen") ? "  FROZEN" : "") + "\n\n";
  Table table(
      {"NAME", "MODE", "PROMISED", "TOUCHED", "RESIDENT", "FAR", "FAULTS/S", "P50", "P99", "STALL/BUDGET", "STATE"});
  for (const json::value& vm : items_of(vms, "items")) {
    const std::uint64_t promised = number_at(vm, "memory.promised_bytes");
    const std::uint64_t untouched = number_at(vm, "memory.untouched_bytes") + number_at(vm, "memory.released_bytes");
    table.add({text_at(vm, "name"), text_at(vm, "settings.mode"), size_at(vm, "memory.promised_bytes"),
               short_text(Bytes{promised - std::min(promised, untouched)}), size_at(vm, "memory.in_dram_bytes"),
               size_at(vm, "memory.far_bytes"), one_digit(ratio_at(vm, "faults_per_second")),
               nanoseconds_at(vm, "fault_p50_ns"), nanoseconds_at(vm, "fault_p99_ns"), stall_cell(vm), state_cell(vm)});
  }
  return text + table.text(colour);
}

}  // namespace tidepool::cli
