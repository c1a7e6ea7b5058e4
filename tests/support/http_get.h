// What a scraper gets.
#pragma once

#include <string>

namespace tidepool::tests {

// The whole answer of a server on this host, headers included; empty when there is none.
std::string http_get(int port, const std::string& path);

// A port of 127.0.0.1 that nobody listens on now, another one every time. For one thread.
int free_port();

// The value of a series as `name{label="..."}`; -1 when the text has none.
double metric_value(const std::string& exposition, const std::string& series);

}  // namespace tidepool::tests
