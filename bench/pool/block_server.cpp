// Another server of memory beside ours: nbdkit's memory plugin, read by libnbd, over the same transport, with as many
// reads under way. Linked only where libnbd is installed; nbdkit is started from PATH.
#include "bench/pool/block_server.h"

#include <libnbd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <stdexcept>
#include <thread>

namespace tidepool::bench {
namespace {

constexpr int kPort = 17393;
constexpr std::size_t kPage = 4096;

[[noreturn]] void fail(const std::string& what) {
  const char* const why = ::nbd_get_error();
  throw std::runtime_error(what + ": " + (why == nullptr ? "unknown" : why));
}

}  // namespace

struct BlockServer::Read {
  std::vector<std::byte> room;
  bool done = true;
  bool failed = false;
};

BlockServer::BlockServer(bool tcp, std::size_t pages) : pages_(pages) {
  char folder[] = "/tmp/bench-pool-XXXXXX";
  if (::mkdtemp(folder) == nullptr) throw std::runtime_error("no folder in /tmp");
  folder_ = folder;
  const std::string socket = folder_ + "/socket";
  std::vector<std::string> words{"nbdkit", "--foreground", "--exit-with-parent"};
  if (tcp) {
    words.insert(words.end(), {"--ipaddr", "127.0.0.1", "--port", std::to_string(kPort)});
  } else {
    words.insert(words.end(), {"--unix", socket});
  }
  words.insert(words.end(), {"memory", std::to_string(pages * kPage)});
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  if (::posix_spawnp(&pid_, "nbdkit", nullptr, nullptr, arguments.data(), environ) != 0)
    throw std::runtime_error("nbdkit cannot be started: scripts/setup --bench installs it");
  handle_ = ::nbd_create();
  if (handle_ == nullptr) fail("libnbd");
  const auto connect = [&] {
    return tcp ? ::nbd_connect_tcp(handle_, "127.0.0.1", std::to_string(kPort).c_str())
               : ::nbd_connect_unix(handle_, socket.c_str());
  };
  for (int tries = 0; connect() != 0; ++tries) {
    if (tries == 100) fail("nbdkit does not answer");
    ::nbd_close(handle_);
    handle_ = ::nbd_create();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  const std::vector<std::byte> chunk(kPage * 64, std::byte{0x5a});
  for (std::size_t page = 0; page < pages_; page += 64)
    if (::nbd_pwrite(handle_, chunk.data(), chunk.size(), page * kPage, 0) != 0) fail("a write");
}

BlockServer::~BlockServer() {
  ::nbd_close(handle_);
  if (pid_ > 0) {
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  std::filesystem::remove_all(folder_);
}

void BlockServer::read(std::size_t count, unsigned depth, std::size_t pages_each) {
  if (reads_.size() != depth) {
    reads_.clear();
    for (unsigned i = 0; i < depth; ++i) reads_.push_back(std::make_unique<Read>());
    for (auto& each : reads_) each->room.resize(pages_each * kPage);
  }
  std::size_t asked = 0, answered = 0;
  while (answered < count) {
    for (auto& each : reads_) {
      if (!each->done || asked >= count) continue;
      each->done = false;
      nbd_completion_callback callback{};
      callback.user_data = each.get();
      callback.callback = [](void* data, int* error) {
        auto* const read = static_cast<Read*>(data);
        read->failed = *error != 0;
        read->done = true;
        return 1;
      };
      const std::uint64_t at = (next_ + pages_each <= pages_ ? next_ : 0) * kPage;
      next_ = at / kPage + pages_each;
      if (::nbd_aio_pread(handle_, each->room.data(), each->room.size(), at, callback, 0) < 0) fail("a read");
      asked += pages_each;
      ++under_way_;
    }
    if (::nbd_poll(handle_, 1000) < 0) fail("nbdkit");
    std::size_t busy = 0;
    for (auto& each : reads_) {
      if (each->failed) throw std::runtime_error("a read failed");
      busy += each->done ? 0 : 1;
    }
    answered += (under_way_ - busy) * pages_each;
    under_way_ = busy;
  }
}

}  // namespace tidepool::bench
