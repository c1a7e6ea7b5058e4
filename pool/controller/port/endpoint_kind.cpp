#include "pool/controller/port/endpoint_kind.h"

#include <algorithm>
#include <optional>

#include "service/http/endpoint.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::size_t kMostEndpoints = 16;

}  // namespace

config::Kind<std::vector<std::string>> endpoint_list() {
  return {"list of endpoints", "a list of \"unix:PATH\", \"https://HOST:PORT\" and \"http://HOST:PORT\", at most 16",
          [](const config::ConfigValue& value) -> std::optional<std::vector<std::string>> {
            const auto* list = std::get_if<std::vector<std::string>>(&value);
            if (!list || list->size() > kMostEndpoints) return std::nullopt;
            if (!std::ranges::all_of(*list, [](const auto& each) { return http::Endpoint::parse(each).has_value(); }))
              return std::nullopt;
            return *list;
          },
          [](const std::vector<std::string>& list) {
            std::string text = "[";
            for (const std::string& item : list) text += (text.size() > 1 ? ", " : "") + config::toml_string(item);
            return text + "]";
          }};
}

std::string endpoint_trouble(const std::vector<std::string>& endpoints, const http::TlsFiles& tls,
                             const std::string& section) {
  const int files = !tls.certificate.empty() + !tls.key.empty() + !tls.authority.empty();
  if (endpoints.empty())
    return files == 0 ? "" : section + ".endpoints is missing: the controller that " + section + " is about";
  const bool needed = std::ranges::any_of(endpoints, [](const auto& each) { return each.starts_with("https:"); });
  const std::string all = section + ".certificate, " + section + ".key and " + section + ".authority";
  if (needed && files != 3) return "an https endpoint needs " + all;
  if (!needed && files != 0) return all + " are for https endpoints";
  return "";
}

}  // namespace tidepool::pool::controller
