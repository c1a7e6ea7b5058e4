// What the pool's controller knows, as tables.
#include <boost/json.hpp>
#include <chrono>

#include "base/quantity_text.h"
#include "base/text.h"
#include "cli/document.h"
#include "cli/table.h"
#include "cli/views.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

const json::array& pool_items(const json::value& document, std::string_view path = "items") {
  static const json::array kNone;
  const json::value* at = find(document, path);
  return at && at->is_array() ? at->get_array() : kNone;
}

std::string ago(const json::value& document) {
  // Fractions of a second are of no interest to anybody.
  const auto passed = std::chrono::milliseconds(number_at(document, "last_seen_ms"));
  return exact_text(std::chrono::milliseconds(std::chrono::floor<std::chrono::seconds>(passed))) + " ago";
}

Cell server_state(const json::value& server) {
  const std::string state = text_at(server, "state");
  if (state == "lost") return {state, Paint::kBad};
  if (state == "suspect") return {state, Paint::kWarn};
  if (flag_at(server, "draining")) return {"draining", Paint::kWarn};
  return {state, Paint::kGood};
}

Cell warn_if(std::uint64_t count, const std::string& text, Paint paint) {
  return {text, count == 0 ? Paint::kNone : paint};
}

// "1.0" and the like; a weight is seldom anything but a small number.
std::string weight_at(const json::value& document) {
  return text_at(document, "weight").empty() ? "-" : json::serialize(json::value(ratio_at(document, "weight")));
}

std::string vm_notes(const json::value& vm) {
  std::string notes;
  const auto add = [&](const std::string& note) { notes += (notes.empty() ? "" : ", ") + note; };
  if (const auto bytes = number_at(vm, "give_back_bytes"); bytes != 0)
    add("gives back " + size_at(vm, "give_back_bytes") + (flag_at(vm, "give_back_overdue") ? " (overdue)" : ""));
  if (const auto few = number_at(vm, "under_replicated_slices"); few != 0)
    add(std::to_string(few) + " slices lack replicas");
  if (!flag_at(vm, "present")) add("not reported");
  return notes;
}

}  // namespace

std::string pool_status_view(const json::value& document, bool colour) {
  Table table({});
  const auto number = [&](std::string_view name) { return text_at(document, name); };
  table.add({"pool", number("cluster") + ", slices of " + size_at(document, "slice_bytes") + ", " + number("replicas") +
                         " replicas"});
  const auto bad = number_at(document, "servers_suspect") + number_at(document, "servers_lost");
  table.add({"servers", warn_if(bad,
                                number("servers_up") + " up, " + number("servers_suspect") + " suspect, " +
                                    number("servers_lost") + " lost, " + number("servers_draining") + " draining",
                                Paint::kWarn)});
  table.add({"hosts", number("hosts") + " (" + number("hosts_silent") + " silent), " + number("vms") + " VMs"});
  table.add({"capacity", size_at(document, "capacity_bytes") + ": leased " + size_at(document, "leased_bytes") +
                             ", freeing " + size_at(document, "freeing_bytes") + ", free " +
                             size_at(document, "free_bytes") + " (stranded " + size_at(document, "stranded_bytes") +
                             ")"});
  table.add({"grantable", size_at(document, "grantable_bytes") + ", of it ahead " + size_at(document, "buffer_bytes")});
  table.add({"VMs", "want " + size_at(document, "wanted_bytes") + ", hold " + size_at(document, "held_bytes") +
                        ", use " + size_at(document, "used_bytes")});
  table.add({"slices",
             number("slices") + ", offered " + number("offered_slices") + ", releasing " + number("releasing_slices")});
  const auto few = number_at(document, "under_replicated_slices");
  table.add({"replication",
             warn_if(few,
                     few == 0 ? "full"
                              : std::to_string(few) + " slices lack replicas; copying " + number("rebuild_running") +
                                    ", " + size_at(document, "rebuild_remaining_bytes") + " to do",
                     Paint::kWarn)});
  if (const auto lost = number_at(document, "lost_slices"); lost != 0)
    table.add({"lost", Cell(std::to_string(lost) + " slices have no replica left", Paint::kBad)});
  if (const auto overdue = number_at(document, "reclaims_overdue"); overdue != 0)
    table.add({"overdue", Cell(std::to_string(overdue) + " VMs did not give back in time", Paint::kWarn)});
  std::string text = table.text(colour);
  Table domains({"DOMAIN", "SERVERS", "CAPACITY", "LEASED", "FREE", "STRANDED"});
  for (const json::value& each : pool_items(document, "domains"))
    domains.add({text_at(each, "name"), text_at(each, "servers"), size_at(each, "capacity_bytes"),
                 size_at(each, "leased_bytes"), size_at(each, "free_bytes"), size_at(each, "stranded_bytes")});
  if (!domains.empty()) text += "\n" + domains.text(colour);
  Table tenants({"TENANT", "VMS", "RESERVED", "LIMIT", "WEIGHT", "HELD", "SHARE"});
  for (const json::value& each : pool_items(document, "tenants"))
    tenants.add({text_at(each, "name"), text_at(each, "vms"), size_at(each, "reservation_bytes"),
                 size_at(each, "limit_bytes"), weight_at(each), size_at(each, "held_bytes"),
                 size_at(each, "share_bytes")});
  if (!tenants.empty()) text += "\n" + tenants.text(colour);
  return text;
}

std::string pool_servers_view(const json::value& document, bool colour) {
  Table table({"NAME", "STATE", "DOMAIN", "CAPACITY", "LEASED", "FREE", "SLICES", "TO MOVE", "SEEN", "ADDRESS"});
  for (const json::value& each : pool_items(document))
    table.add({text_at(each, "name"), server_state(each), text_at(each, "domain"), size_at(each, "capacity_bytes"),
               size_at(each, "leased_bytes"), size_at(each, "free_bytes"), text_at(each, "slices"),
               text_at(each, "slices_to_move"), ago(each), text_at(each, "address")});
  return table.text(colour);
}

std::string pool_server_view(const json::value& document, bool colour) {
  Table table({});
  table.add({"name", text_at(document, "name")});
  table.add({"state", server_state(document)});
  table.add({"seen", ago(document)});
  table.add({"address", text_at(document, "address")});
  table.add({"domain", text_at(document, "domain")});
  table.add({"boot", text_at(document, "boot")});
  table.add({"capacity", size_at(document, "capacity_bytes")});
  table.add({"leased", size_at(document, "leased_bytes") + " in " + text_at(document, "slices") + " slices"});
  table.add({"freeing", size_at(document, "freeing_bytes")});
  table.add({"free",
             size_at(document, "free_bytes") + " (by its own count " + size_at(document, "reported_free_bytes") + ")"});
  table.add({"to move", text_at(document, "slices_to_move") + " slices"});
  return table.text(colour);
}

std::string pool_hosts_view(const json::value& document, bool colour) {
  Table table({"NAME", "STATE", "VMS", "LIMIT", "WEIGHT", "HELD", "SPARE", "SEEN"});
  for (const json::value& each : pool_items(document))
    table.add({text_at(each, "name"), flag_at(each, "silent") ? Cell("silent", Paint::kWarn) : Cell("up", Paint::kGood),
               text_at(each, "vms"), size_at(each, "limit_bytes"), weight_at(each), size_at(each, "held_bytes"),
               size_at(each, "spare_bytes"), flag_at(each, "seen") ? ago(each) : "-"});
  return table.text(colour);
}

std::string pool_vms_view(const json::value& document, bool colour) {
  Table table({"HOST/VM", "TENANT", "RESERVED", "LIMIT", "WEIGHT", "WANTED", "SHARE", "HELD", "USED", "NOTES"});
  for (const json::value& each : pool_items(document)) {
    const std::string notes = vm_notes(each);
    table.add({text_at(each, "host") + "/" + text_at(each, "name"), text_at(each, "tenant"),
               size_at(each, "reservation_bytes"), size_at(each, "limit_bytes"), weight_at(each),
               size_at(each, "wanted_bytes"), size_at(each, "share_bytes"), size_at(each, "held_bytes"),
               size_at(each, "used_bytes"), Cell(notes, Paint::kWarn)});
  }
  return table.text(colour);
}

std::string pool_leases_view(const json::value& document, bool colour) {
  Table table({"SLICE", "HOST/VM", "STATUS", "REPLICAS"});
  for (const json::value& each : pool_items(document)) {
    std::string replicas;
    for (const json::value& replica : pool_items(each, "replicas")) {
      const std::string status = text_at(replica, "status");
      replicas += (replicas.empty() ? "" : ", ") + text_at(replica, "server") +
                  (status == "in_force" ? "" : " (" + status + ")");
    }
    const std::string status = text_at(each, "status");
    table.add({text_at(each, "slice"), text_at(each, "host") + "/" + text_at(each, "vm"),
               Cell(status, status == "held" ? Paint::kNone : Paint::kWarn), replicas});
  }
  return table.text(colour);
}

std::string pool_history_view(const json::value& document, bool colour) {
  Table table({"TIME", "BY", "EVENT", "OF", "WHAT"});
  for (const json::value& each : pool_items(document)) {
    const auto ms = static_cast<std::int64_t>(number_at(each, "unix_ms"));
    table.add({rfc3339(std::chrono::system_clock::time_point(std::chrono::milliseconds(ms))), text_at(each, "actor"),
               text_at(each, "event"), text_at(each, "subject"), text_at(each, "text")});
  }
  return table.text(colour);
}

std::string pool_plan_view(const json::value& document, bool) {
  std::string text;
  for (const json::value& reason : pool_items(document, "reasons")) text += printable(text_at(reason, "")) + "\n";
  if (const auto bytes = number_at(document, "to_give_back_bytes"); bytes != 0)
    text += "to give back: " + size_at(document, "to_give_back_bytes") + "\n";
  if (const auto slices = number_at(document, "slices_to_copy"); slices != 0)
    text += "to copy: " + std::to_string(slices) + " slices\n";
  if (!flag_at(document, "possible")) text = "NO\n" + text;
  if (text.empty()) return flag_at(document, "done") ? "done\n" : "nothing to change\n";
  return text;
}

}  // namespace tidepool::cli
