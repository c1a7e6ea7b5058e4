// Adoption of QEMU as hosts run it: behind its seccomp filter, as an unprivileged user, while its vCPU works.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <iostream>

#include "tests/integration/operator/adoption_case.h"

namespace tidepool::tests {
namespace {

constexpr const char* kQemu = "/usr/bin/qemu-system-x86_64";
constexpr const char* kUuid = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";

class Qemu : public AdoptionCase {
 protected:
  void SetUp() override {
    AdoptionCase::SetUp();
    if (::access(kQemu, X_OK) != 0) GTEST_SKIP() << "QEMU is not installed";
  }
  void TearDown() override {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  // Its firmware runs, for there is nothing to boot.
  void start_qemu(const Words& more, uid_t user = 0) {
    Words words{kQemu,         "-name",    "guest=web-3,debug-threads=on",
                "-uuid",       kUuid,      "-m",
                "64",          "-display", "none",
                "-nodefaults", "-accel",   "tcg",
                "-sandbox",    "on"};
    words.insert(words.end(), more.begin(), more.end());
    pid_ = start_program(words, {}, folder_ / "out", folder_ / "err",
                         [user] { return user == 0 || (::setgid(user) == 0 && ::setuid(user) == 0); });
    // Its filter is in place and its memory is there: it can be adopted.
    const bool ready = await([&] {
      return read_file("/proc/" + std::to_string(pid_) + "/status").find("Seccomp:\t2") != std::string::npos &&
             std::ranges::count(state_of_process(pid_).threads, "CPU 0/TCG") == 1 &&
             adopt(pid_, {}, {"--check"}).code == 0;
    });
    ASSERT_TRUE(ready) << adopt(pid_, {}, {"--check"}).all() << read_file(folder_ / "err");
  }
  // Of the last adoption, in microseconds; fails the test when a vCPU was stopped for it.
  double stopped_for(const std::string& vm) {
    const auto events = ask({"vm", "events", vm});
    double microseconds = -1;
    for (const auto& event : events.at("items").as_array()) {
      if (event.at("kind").as_string() != "adopted") continue;
      const std::string message(event.at("message").as_string());
      const std::size_t quote = message.find('\'');
      EXPECT_NE(message.substr(quote, 5), "'CPU ") << message;
      EXPECT_EQ(std::sscanf(message.c_str() + message.rfind(" for "), " for %lf us", &microseconds), 1) << message;
    }
    return microseconds;
  }
  void adopt_and_release(unsigned rounds, const char* what) {
    const ProcessState before = state_of_process(pid_);
    std::vector<double> stops;
    for (unsigned round = 0; round < rounds; ++round) {
      ASSERT_EQ(adopt_whole(pid_), "web-3");
      EXPECT_GE(state_of_process(pid_).watched_mappings, 1u);
      stops.push_back(stopped_for("web-3"));
      const Outcome released = release("web-3");
      ASSERT_EQ(released.code, 0) << released.all();
      ASSERT_TRUE(await([&] { return state_of_process(pid_) == before; }))
          << ::testing::PrintToString(state_of_process(pid_)) << "\nwas\n"
          << ::testing::PrintToString(before);
    }
    std::ranges::sort(stops);
    std::cout << what << ": one thread, no vCPU, stopped for " << stops[stops.size() / 2] << " us at the median, "
              << stops.back() << " us at most, of " << stops.size() << "\n";
    expect_as_remembered();
  }

  TestFolder folder_;
  pid_t pid_ = 0;
};

TEST_F(Qemu, BehindItsSandboxIsAdoptedAndReleasedWithoutStoppingAVcpu) {
  start();
  start_qemu({});
  adopt_and_release(15, "qemu -sandbox on");
}

TEST_F(Qemu, OfAnUnprivilegedUserIsAdoptedAndReleasedWithoutStoppingAVcpu) {
  start();
  start_qemu({}, 65534);
  adopt_and_release(15, "qemu -sandbox on, unprivileged");
}

TEST_F(Qemu, WithSharedMemoryIsAdoptedAndReleasedWithoutStoppingAVcpu) {
  start();
  start_qemu({"-machine", "q35,memory-backend=m", "-object", "memory-backend-memfd,id=m,size=64M,share=on"});
  adopt_and_release(5, "qemu -sandbox on, memfd");
}

TEST_F(Qemu, IsFoundByNameAndUuid) {
  start();
  start_qemu({});
  expect_parts(agent().tidectl({"vm", "adopt", "--domain", "web-3", "--check"}), 0, {"ELIGIBLE web-3"});
  std::string upper = kUuid;
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  expect_parts(agent().tidectl({"vm", "adopt", "--domain", upper}), 0, {"web-3", "succeeded"});
  expect_parts(agent().tidectl({"vm", "show", "web-3"}), 0, {kUuid});
  expect_parts(agent().tidectl({"vm", "show", upper}), 0, {"web-3"});
  expect_parts(agent().tidectl({"vm", "events", kUuid}), 0, {"adopted"});
  expect_parts(agent().tidectl({"vm", "release", kUuid}), 0, {"succeeded"});
}

}  // namespace
}  // namespace tidepool::tests
