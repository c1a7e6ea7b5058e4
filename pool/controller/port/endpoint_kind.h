// Endpoints of a controller in a configuration file.
#pragma once

#include <string>
#include <vector>

#include "pool/controller/port/controller_port.h"
#include "service/config_kinds.h"

namespace tidepool::pool::controller {

// "unix:PATH", "https://HOST:PORT" and "http://HOST:PORT", at most 16.
config::Kind<std::vector<std::string>> endpoint_list();

// What contradicts itself; empty: nothing. `section`: "controller", for the text.
std::string endpoint_trouble(const std::vector<std::string>& endpoints, const http::TlsFiles& tls,
                             const std::string& section);

}  // namespace tidepool::pool::controller
