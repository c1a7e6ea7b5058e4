// Names that processes choose for themselves: none of them reaches a terminal as a command, forges a line of a log, or
// breaks a document.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

#include "base/text.h"
#include "tests/integration/operator/adoption_case.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

namespace tidepool::tests {
namespace {

// Clears a screen, begins a line, ends a JSON string, turns the text around, and is no UTF-8 at its end.
const std::string kEvil = "\x1b[2Jx\n\"}],level=error\xc2\x9b\x31m\xe2\x80\xae\xff";

void expect_harmless(const std::string& text) {
  std::string rest = text;
  for (std::size_t at = 0; at < text.size();) {
    const Character next = first_character(std::string_view(text).substr(at));
    ASSERT_TRUE(next.valid && (next.point == '\n' || is_printable(next.point))) << "byte " << at << " of\n"
                                                                                << printable(text);
    at += next.bytes;
  }
}

class HostileNames : public AdoptionCase {};

TEST_F(HostileNames, AreShownAsTextEverywhere) {
  start({{"api.metrics", "\"127.0.0.1:" + std::to_string(20000 + ::getpid() % 20000) + "\""}});
  const TestFolder folder;
  // A program in a folder, of a name and with a shared memory object that are all evil.
  const std::string bad_folder = folder / kEvil;
  std::filesystem::create_directory(bad_folder);
  const std::string program = bad_folder + "/" + kEvil;
  std::filesystem::copy_file("/bin/sleep", program);
  const PlannedMemory memory(8 * kMiB);
  const ChildProcess child([&]() -> std::string {
    const int fd = ::memfd_create(kEvil.c_str(), 0);
    if (fd < 0 || ::ftruncate(fd, 8 * kMiB) != 0 || memory.make(MAP_SHARED, fd) == nullptr) return "memfd";
    ::prctl(PR_SET_NAME, kEvil.c_str());
    return "";
  });
  ASSERT_READY(child);
  const pid_t other = start_program({program, "1000"}, {}, folder / "out", folder / "err");
  EXPECT_TRUE(
      await([&] { return std::filesystem::read_symlink("/proc/" + std::to_string(other) + "/exe") == program; }));

  const auto every_way = [&](const Words& words) {
    for (const char* format : {"table", "json", "yaml"}) {
      Words with = words;
      with.insert(with.end(), {"-o", format});
      const Outcome outcome = agent().tidectl(with);
      SCOPED_TRACE(words[0] + " " + words.back() + " as " + format);
      expect_harmless(outcome.out);
      expect_harmless(outcome.err);
      if (std::string(format) != "json" || outcome.out.empty()) continue;
      boost::system::error_code error;
      boost::json::parse(outcome.out, error);
      EXPECT_FALSE(error) << printable(outcome.out);
    }
  };
  every_way({"vm", "adopt", "--pid", std::to_string(other), "--check"});
  every_way({"vm", "adopt", "--pid", std::to_string(child.pid()), "--mapping", "shared", "--check"});
  every_way({"vm", "adopt", "--domain", kEvil});
  every_way({"vm", "adopt", "--cgroup", kEvil});
  every_way({"vm", "show", kEvil});
  const std::string name = adopt_whole(child.pid(), {}, {"--mapping", "shared"});
  ASSERT_FALSE(name.empty());
  expect_parts(agent().tidectl({"vm", "hold", name, "--reason", kEvil}), 0, {});
  for (const Words& words : std::vector<Words>{{"vm", "list"},
                                               {"vm", "show", name},
                                               {"vm", "events", name},
                                               {"explain", name},
                                               {"decisions"},
                                               {"top"},
                                               {"status"},
                                               {"host", "evacuate", "--plan"}})
    every_way(words);
  expect_parts(agent().tidectl({"vm", "set", name, "--class", kEvil}), 2, {"class"});
  // On a line of its own per message, with nothing that a terminal obeys.
  EXPECT_EQ(release(name).code, 0);
  expect_harmless(agent().log());
  std::istringstream log(agent().log());
  for (std::string line; std::getline(log, line);) EXPECT_NE(line.find(" tidepoold level="), std::string::npos) << line;
  std::istringstream audit(agent().audit());
  for (std::string line; std::getline(audit, line);) {
    boost::system::error_code error;
    boost::json::parse(line, error);
    EXPECT_FALSE(error) << printable(line);
  }
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
}

}  // namespace
}  // namespace tidepool::tests
