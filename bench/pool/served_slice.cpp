#include "bench/pool/served_slice.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "pool/protocol/handshake.h"

namespace tidepool::bench {
namespace {

using protocol::kMaxPagesPerFrame;

constexpr int kPort = 17391;

protocol::ServerKey key() {
  protocol::ServerKey bytes{};
  bytes.fill(0x37);
  return bytes;
}

void await(const std::function<bool()>& condition, const char* what) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) throw std::runtime_error(what);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

ServedSlice::ServedSlice(bool tcp) {
  char folder[] = "/tmp/bench-pool-XXXXXX";
  if (::mkdtemp(folder) == nullptr) throw std::runtime_error("no folder in /tmp");
  folder_ = folder;
  ::chmod(folder, 0755);
  address_ = tcp ? "tcp:127.0.0.1:" + std::to_string(kPort) : "unix:" + folder_ + "/socket";
  start_server(tcp);
  auto made = pool::make_server_link({.name = "bench", .address = address_});
  if (!made) throw std::runtime_error(made.error().message());
  link_ = std::move(*made);
  link_->listen({});
  fill();
}

ServedSlice::~ServedSlice() {
  link_.reset();
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  std::filesystem::remove_all(folder_);
}

void ServedSlice::start_server(bool tcp) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "tidepool-memd";
  if (!std::filesystem::exists(program)) throw std::runtime_error(program + " is missing: build it first");
  const std::string key_file = folder_ + "/key";
  const auto bytes = key();
  std::ofstream(key_file, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  ::chmod(key_file.c_str(), 0600);
  const std::string config = folder_ + "/memd.toml";
  std::ofstream(config) << "schema = 1\nname = \"bench\"\nlisten = [\"" << address_ << "\"]\nkey_file = \"" << key_file
                        << "\"\nmetrics = \"\"\n"
                        << (tcp ? "" : "authenticate_unix = false\n")
                        << "memory.capacity = \"64MiB\"\nlimits.threads = 1\n";
  std::array<std::string, 3> words{program, "--config", config};
  std::array<char*, 4> arguments{words[0].data(), words[1].data(), words[2].data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const std::string log = folder_ + "/log";
  posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  const int error = ::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::runtime_error("cannot start " + program);
}

void ServedSlice::fill() {
  pool::Lease lease;
  lease.claims = {.slice = kSlice,
                  .holder = {1},
                  .epoch = protocol::LeaseEpoch{1},
                  .slots = kSlots,
                  .rights = protocol::kRightRead | protocol::kRightWrite | protocol::kRightCreate};
  lease.secret = protocol::lease_secret(key(), lease.claims);
  std::atomic<bool> attached{false};
  for (int tries = 0; tries < 5 && !attached; ++tries) {
    std::atomic<bool> answered{false};
    link_->attach(lease, [&](pool::AttachOutcome outcome, protocol::ErrorCode) {
      attached = outcome == pool::AttachOutcome::kCreated;
      answered = true;
    });
    await([&] { return answered.load(); }, "the server does not answer");
  }
  if (!attached) throw std::runtime_error("the server gives no slice: " + link_->figures().why);
  std::vector<std::byte> page(protocol::kSlotBytes, std::byte{0x5a});
  for (std::uint32_t slot = 0; slot < kSlots; slot += kMaxPagesPerFrame) {
    std::array<pool::LinkItem, kMaxPagesPerFrame> items;
    for (std::uint32_t i = 0; i < kMaxPagesPerFrame; ++i) {
      items[i] = {.slot = slot + i, .version = 1, .length = protocol::kSlotBytes, .payload = page.data()};
    }
    std::atomic<int> outcome{-1};
    pool::LinkRequest request;
    request.op = pool::LinkOp::kWrite;
    request.slice = kSlice;
    request.items = items;
    request.priority = pool::Priority::kWriteBack;
    request.done = [&](pool::LinkRequest&, pool::LinkOutcome came) { outcome = static_cast<int>(came); };
    link_->submit(request);
    await([&] { return outcome >= 0; }, "a write is not answered");
    if (outcome != static_cast<int>(pool::LinkOutcome::kAnswered)) throw std::runtime_error("a write was not done");
  }
}

}  // namespace tidepool::bench
