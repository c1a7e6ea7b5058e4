// A small memory server on the real codec that does wrong what a test wants done wrong.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "pool/protocol/codec.h"
#include "pool/protocol/frame_guard.h"
#include "pool/protocol/frame_reader.h"
#include "pool/protocol/handshake.h"

namespace tidepool::pool {

// What happens to a request for pages.
enum class Deed {
  kAnswer,
  kSilence,
  kHold,      // answered when release_held() is called
  kTwice,     // answered, and answered again with other content
  kUnasked,   // an answer to an id that never was
  kGarbage,   // bytes that are no frame
  kWrongTag,  // one bit of the tag is turned
  kNoTag,
  kCutFrame,   // half of the answer, then the end
  kOtherSlot,  // an answer about another slot
  kOtherType,
  kTooLong,  // a length that no page has
};

// What comes with the answer to an ATTACH that wants to read the slice itself.
enum class Hands {
  kNothing,  // the feature is not there
  kFile,
  kShortFile,  // its end is missing
  kPipe,       // whoever reads it waits
  kOtherFile,  // a file that is not memory
  kNoFile,     // says that there is one
  kTooMany,
};

struct ServerSettings {
  bool tcp = false;
  bool authenticate = true;  // if HELLO offers it
  std::string name = "shelf-1";
  protocol::ServerKey key{};
  protocol::BootId boot{1};
  std::uint32_t credit = 256;
  Hands hands = Hands::kNothing;
};

class ScriptedServer {
 public:
  explicit ScriptedServer(ServerSettings settings);
  ~ScriptedServer();

  std::string address() const { return address_; }

  // Any time:
  void deed(Deed deed) { deed_ = deed; }  // for READ, WRITE and DISCARD from now on
  void release_held();
  void cut();                                    // all connections
  void restart(const ServerSettings& settings);  // empty; same address
  void stop();                                   // no connections, no listener, until restart
  void grant(std::uint32_t credit);              // on all keyed connections
  void announce_draining();
  std::size_t pings() const { return pings_; }
  std::size_t accepted() const { return accepted_; }
  std::size_t attached_slices();
  std::vector<protocol::MessageType> requests_for_pages();  // in the order in which they came

 private:
  struct Stored {
    std::uint64_t version = 0;
    protocol::Tag tag{};
    std::vector<std::byte> bytes;
    bool empty = true;
  };
  struct Slice {
    protocol::Claims claims;
    std::map<std::uint32_t, Stored> slots;
    UniqueFd file;  // the same, for whoever has it to read
  };
  struct Peer {
    UniqueFd socket;
    protocol::FrameReader reader;
    protocol::Buffer hello;
    protocol::Buffer welcome;
    protocol::Random client{};
    bool authenticated = false;
    bool takes_files = false;
    bool keyed = false;
    std::optional<protocol::FrameGuard> incoming;
    std::optional<protocol::FrameGuard> outgoing;
    std::vector<protocol::Buffer> held;
    bool ended = false;
  };

  void listen_anew();
  void run();
  void serve(Peer& peer);
  void take(Peer& peer, const protocol::Frame& frame);
  void attach(Peer& peer, const protocol::Frame& frame);
  void pages(Peer& peer, const protocol::Frame& frame);
  protocol::Buffer answer_to(const protocol::Frame& frame);
  void put(Slice& slice, std::uint32_t slot, Stored stored) const;
  std::vector<UniqueFd> files_for(const Slice& slice) const;
  static protocol::Random random_of(const Peer& peer);  // ours, of WELCOME
  void send(Peer& peer, protocol::Buffer frame, Deed deed = Deed::kAnswer, std::vector<UniqueFd> files = {});

  std::mutex mutex_;  // all below but the atomics
  ServerSettings settings_;
  std::string address_;
  std::string folder_;
  std::uint16_t port_ = 0;
  UniqueFd listener_;
  UniqueFd wake_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::map<protocol::SliceId, Slice> slices_;
  std::vector<protocol::MessageType> seen_;
  protocol::Random random_{};

  std::atomic<Deed> deed_{Deed::kAnswer};
  std::atomic<std::size_t> pings_{0};
  std::atomic<std::size_t> accepted_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace tidepool::pool
