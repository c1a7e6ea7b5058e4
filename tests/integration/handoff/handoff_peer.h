// The other side of the hand-off socket: a process that makes memory and a userfaultfd, hands them off, and then works
// on its memory as it is told. Made by fork, so construct it before the test starts threads of its own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/uapi/userfaultfd.h"

namespace tidepool::tests {

struct PeerOptions {
  std::string socket;
  bool shared = false;
  bool send_file = false;  // of shared memory, beside the userfaultfd
  bool descriptors_swapped = false;
  std::uint64_t pages = 2048;
  unsigned regions = 1;  // that the memory is announced in, each with its own mapping
  // Of the handshake; none: it is left to the agent.
  std::optional<std::uint64_t> features = UFFD_FEATURE_EVENT_REMOVE;
  int userfaultfd_flags = 0;   // besides O_CLOEXEC and O_NONBLOCK
  bool blocking = false;       // without O_NONBLOCK
  bool registers = true;       // its memory for missing pages, before it hands off
  bool touches_first = false;  // all of its memory, before it registers it
  bool foreign = false;        // the userfaultfd of another process with the same addresses
  uid_t user = 0;
  gid_t group = 0;
};

// The message as Firecracker writes it.
std::string handoff_message(const std::vector<AddressRange>& regions);
// A connection to the socket; invalid when refused.
UniqueFd connect_to(const std::string& socket);
// A line without its newline; what came before the end when the other side closed.
std::string read_answer(int socket);

class HandoffPeer {
 public:
  explicit HandoffPeer(const PeerOptions& options);
  ~HandoffPeer();
  HandoffPeer(const HandoffPeer&) = delete;
  HandoffPeer& operator=(const HandoffPeer&) = delete;

  pid_t pid() const { return pid_; }
  // What the agent answered: {"vm":...}, {"error":...}, or nothing when it just closed.
  const std::string& answer() const { return answer_; }
  bool served() const { return answer_.starts_with("{\"vm\":"); }
  std::string vm() const;

  // Writes version `version` of its content to every page; zero: zeros.
  bool fill(std::uint64_t version);
  // Whether every byte is of that version.
  bool holds(std::uint64_t version);
  // Whether its memory is what the file holds.
  bool holds_file(const std::string& path);
  // Whether the kernel, on its behalf, can read all of its memory: write(2) to a pipe.
  bool kernel_reads();
  // Writes and checks all the time on a thread of its own, until holds() or fill() stop it.
  bool start_working();
  // False when anything was wrong.
  bool stop_working();
  bool discard_first_half();  // MADV_DONTNEED; zeros are expected there from then on
  bool connection_closed();   // by the agent
  bool vanish();              // exits at once

 private:
  std::string ask(const std::string& line);

  pid_t pid_ = -1;
  UniqueFd channel_;
  std::string answer_;
};

}  // namespace tidepool::tests
