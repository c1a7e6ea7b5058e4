#include "cli/commands_pki.h"

#include <boost/json.hpp>

#include "base/quantity_text.h"
#include "cli/document.h"
#include "cli/table.h"
#include "service/http/pki.h"

namespace tidepool::cli {
namespace {

namespace json = boost::json;

constexpr unsigned kAuthorityDays = 3650;
constexpr unsigned kUsualDays = 365;

std::chrono::seconds validity(unsigned days, unsigned usual) {
  return std::chrono::hours(24) * (days == 0 ? usual : days);
}

json::object issued_document(const http::Issued& issued) {
  json::array hosts(issued.identity.hosts.begin(), issued.identity.hosts.end());
  return {{"name", issued.identity.name},
          {"role", issued.identity.role},
          {"hosts", std::move(hosts)},
          {"certificate", issued.files.certificate},
          {"key", issued.files.key},
          {"authority", issued.files.authority},
          {"valid_until", rfc3339(issued.valid_until)}};
}

std::string issued_view(const json::value& document, bool colour) {
  Table table({"NAME", "ROLE", "VALID UNTIL", "CERTIFICATE"});
  const auto now = rfc3339(std::chrono::system_clock::now());
  for (const json::value& each : find(document, "items")->get_array()) {
    const std::string until = text_at(each, "valid_until");
    table.add({text_at(each, "name"), text_at(each, "role"), Cell(until, until < now ? Paint::kBad : Paint::kNone),
               text_at(each, "certificate")});
  }
  return table.text(colour);
}

ExitCode show_issued(Session& session, const std::vector<http::Issued>& all) {
  json::array items;
  for (const http::Issued& each : all) items.push_back(issued_document(each));
  const json::value document{{"items", std::move(items)}};
  if (!session.options().quiet || session.options().format != Format::kTable) session.show(document, issued_view);
  return ExitCode::kOk;
}

ExitCode failed(const Session& session, const Error& error) {
  session.error(error.message());
  return error.code == std::make_error_condition(std::errc::invalid_argument) ? ExitCode::kUsage : ExitCode::kFailed;
}

}  // namespace

ExitCode run_pki_init(Session& session, const std::string& folder, const PkiArguments& arguments) {
  const Result<http::Issued> made = http::make_authority(folder, validity(arguments.days, kAuthorityDays));
  if (!made) return failed(session, made.error());
  session.note("keep " + made->files.key + " secret: whoever has it can be anybody");
  return show_issued(session, {*made});
}

ExitCode run_pki_issue(Session& session, const std::string& folder, const PkiArguments& arguments) {
  const Result<http::Issued> made =
      http::issue(folder, {arguments.name, arguments.role, arguments.hosts}, validity(arguments.days, kUsualDays));
  if (!made) return failed(session, made.error());
  return show_issued(session, {*made});
}

ExitCode run_pki_rotate(Session& session, const std::string& folder, const PkiArguments& arguments) {
  if (arguments.authority) {
    const Result<http::Issued> made = http::rotate_authority(folder, validity(arguments.days, kAuthorityDays));
    if (!made) return failed(session, made.error());
    session.note("now give everybody the new " + made->files.authority + ", then rotate everybody's certificate");
    return show_issued(session, {*made});
  }
  std::vector<std::string> names{arguments.name};
  if (arguments.name.empty()) {
    const auto all = http::issued_in(folder);
    if (!all) return failed(session, all.error());
    names.clear();
    for (const http::Issued& each : *all) names.push_back(each.identity.name);
  }
  std::vector<http::Issued> done;
  for (const std::string& name : names) {
    const Result<http::Issued> made = http::rotate(folder, name, validity(arguments.days, kUsualDays));
    if (!made) return failed(session, made.error());
    done.push_back(*made);
  }
  return show_issued(session, done);
}

ExitCode run_pki_list(Session& session, const std::string& folder) {
  const auto all = http::issued_in(folder);
  if (!all) return failed(session, all.error());
  return show_issued(session, *all);
}

}  // namespace tidepool::cli
