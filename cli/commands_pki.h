// Certificates for mutual TLS between Tidepool's programs. Needs no agent and no controller.
#pragma once

#include <string>
#include <vector>

#include "cli/session.h"

namespace tidepool::cli {

struct PkiArguments {
  std::string name;
  std::string role;
  std::vector<std::string> hosts;
  unsigned days = 0;       // 0: as usual
  bool authority = false;  // rotate: the authority itself
};

ExitCode run_pki_init(Session& session, const std::string& folder, const PkiArguments& arguments);
ExitCode run_pki_issue(Session& session, const std::string& folder, const PkiArguments& arguments);
// Without a name: everybody of the folder.
ExitCode run_pki_rotate(Session& session, const std::string& folder, const PkiArguments& arguments);
ExitCode run_pki_list(Session& session, const std::string& folder);

}  // namespace tidepool::cli
