// Stands where tidectl looks for the agent's program: the two things that it can do without running.
#include <cstdio>
#include <string_view>

#include "daemon/control/api_json.h"
#include "daemon/control/config_loader.h"

int main(int argc, char** argv) {
  using namespace tidepool::daemon;
  const std::string_view what = argc > 1 ? argv[1] : "";
  if (what == "--doctor") {
    std::puts(doctor_document({"6.18.0", {{Verdict::kFail, "userfaultfd", "absent", "CONFIG_USERFAULTFD"}}}).c_str());
    return 0;
  }
  if (what == "--check-config" && argc > 2)
    return run_config_check(argv[2], argc > 3 && std::string_view(argv[3]) == "--json");
  return 2;
}
