#include "tests/unit/pool/client/scripted_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "kmod-interfaces/fd_passing.h"
#include "pool/protocol/slice_file.h"

namespace tidepool::pool {

using protocol::Buffer;
using protocol::ErrorCode;
using protocol::MessageType;

ScriptedServer::ScriptedServer(ServerSettings settings)
    : settings_(std::move(settings)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  char folder[] = "/tmp/tidepool-link-XXXXXX";
  folder_ = ::mkdtemp(folder);
  listen_anew();
  thread_ = std::thread([this] { run(); });
}

ScriptedServer::~ScriptedServer() {
  stopping_ = true;
  const std::uint64_t one = 1;
  EXPECT_EQ(::write(wake_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  thread_.join();
  ::unlink((folder_ + "/socket").c_str());
  ::rmdir(folder_.c_str());
}

void ScriptedServer::listen_anew() {
  if (settings_.tcp) {
    listener_ = UniqueFd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const int on = 1;
    ASSERT_EQ(::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port_);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    socklen_t length = sizeof address;
    ASSERT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    port_ = ntohs(address.sin_port);
    address_ = "tcp:127.0.0.1:" + std::to_string(port_);
  } else {
    listener_ = UniqueFd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = folder_ + "/socket";
    ::unlink(path.c_str());
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    address_ = "unix:" + path;
  }
  ASSERT_EQ(::listen(listener_.get(), 16), 0);
}

void ScriptedServer::run() {
  while (!stopping_) {
    std::vector<pollfd> waits;
    {
      const std::lock_guard lock(mutex_);
      std::erase_if(peers_, [](const auto& peer) { return peer->ended; });
      waits.push_back({wake_.get(), POLLIN, 0});
      if (listener_.valid()) waits.push_back({listener_.get(), POLLIN, 0});
      for (const auto& peer : peers_) waits.push_back({peer->socket.get(), POLLIN, 0});
    }
    ::poll(waits.data(), waits.size(), 50);
    const std::lock_guard lock(mutex_);
    for (const pollfd& wait : waits) {
      if (wait.revents == 0) continue;
      if (wait.fd == listener_.get()) {
        auto peer = std::make_unique<Peer>();
        peer->socket = UniqueFd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
        if (!peer->socket.valid()) continue;
        const int on = 1;
        if (settings_.tcp) ::setsockopt(peer->socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        ++accepted_;
        peers_.push_back(std::move(peer));
        continue;
      }
      for (const auto& peer : peers_) {
        if (peer->socket.get() == wait.fd) serve(*peer);
      }
    }
  }
}

void ScriptedServer::serve(Peer& peer) {
  const auto room = peer.reader.room();
  const ssize_t got = ::recv(peer.socket.get(), room.data(), room.size(), MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    peer.ended = true;
    return;
  }
  peer.reader.received(static_cast<std::size_t>(got));
  protocol::Frame frame;
  while (!peer.ended && peer.reader.next(frame) == protocol::FrameReader::Got::kFrame) take(peer, frame);
}

void ScriptedServer::take(Peer& peer, const protocol::Frame& frame) {
  if (peer.keyed) {
    EXPECT_TRUE(peer.incoming->check(frame.head, frame.body, frame.tag)) << "the link sent a wrong tag";
  } else {
    EXPECT_FALSE(protocol::has_tag(frame.header));
  }
  switch (frame.header.type) {
    case MessageType::kHello: {
      const auto hello = protocol::parse_hello(frame.body);
      ASSERT_TRUE(hello);
      peer.hello.assign(frame.head.begin(), frame.head.end());
      peer.hello.insert(peer.hello.end(), frame.body.begin(), frame.body.end());
      peer.client = hello->random;
      const std::uint32_t known = (settings_.authenticate ? protocol::kFeatureAuthenticatedFrames : 0) |
                                  (settings_.hands != Hands::kNothing ? protocol::kFeatureSharedMemory : 0);
      const std::uint32_t features = hello->features & known;
      peer.authenticated = (features & protocol::kFeatureAuthenticatedFrames) != 0;
      peer.takes_files = (features & protocol::kFeatureSharedMemory) != 0;
      ++random_[0];
      protocol::append_welcome(peer.welcome, frame.header.id,
                               {.features = features,
                                .random = random_,
                                .boot = settings_.boot,
                                .credit_pages = settings_.credit,
                                .name = settings_.name});
      return send(peer, peer.welcome);
    }
    case MessageType::kAttach:
      return attach(peer, frame);
    case MessageType::kPing:
      ++pings_;
      if (deed_ == Deed::kSilence) return;
      [[fallthrough]];
    case MessageType::kRelease: {
      if (const auto scope = protocol::parse_release(frame.body)) slices_.erase(scope->slice);
      Buffer answer;
      protocol::append_answer(answer, frame.header.type, frame.header.id, ErrorCode::kOk);
      return send(peer, std::move(answer));
    }
    default:
      return pages(peer, frame);
  }
}

void ScriptedServer::attach(Peer& peer, const protocol::Frame& frame) {
  const auto attach = protocol::parse_attach(frame.body);
  ASSERT_TRUE(attach);
  const protocol::LeaseSecret secret = protocol::lease_secret(settings_.key, attach->claims);
  const auto transcript = protocol::transcript_digest(peer.hello, peer.welcome);
  Buffer answer;
  if (!protocol::proves(attach->proof, secret, transcript, attach->claims)) {
    protocol::append_answer(answer, MessageType::kAttach, frame.header.id, ErrorCode::kDenied);
    return send(peer, std::move(answer));
  }
  if (peer.authenticated && !peer.keyed) {
    const auto keys = protocol::frame_keys(secret, peer.client, random_of(peer), transcript);
    peer.incoming = std::move(*protocol::FrameGuard::make(keys.to_server));
    peer.outgoing = std::move(*protocol::FrameGuard::make(keys.to_client));
    peer.keyed = true;
  }
  const auto [slice, created] = slices_.try_emplace(attach->claims.slice, Slice{attach->claims, {}, {}});
  protocol::append_attached(
      answer, frame.header.id,
      {attach->claims.slice, attach->claims.epoch, attach->claims.slots, created, peer.takes_files});
  if (!slice->second.file.valid()) {
    slice->second.file = UniqueFd{::memfd_create("slice", MFD_CLOEXEC)};
    const std::uint64_t size = protocol::mark_offset(attach->claims.slots, attach->claims.slots);
    EXPECT_EQ(::ftruncate(slice->second.file.get(), static_cast<off_t>(size)), 0);
  }
  send(peer, std::move(answer), Deed::kAnswer, peer.takes_files ? files_for(slice->second) : std::vector<UniqueFd>{});
}

std::vector<UniqueFd> ScriptedServer::files_for(const Slice& slice) const {
  std::vector<UniqueFd> files;
  const auto give = [&](int fd) { files.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); };
  switch (settings_.hands) {
    case Hands::kNothing:
    case Hands::kNoFile:
      break;
    case Hands::kShortFile:
      EXPECT_EQ(::ftruncate(slice.file.get(), 100), 0);
      [[fallthrough]];
    case Hands::kFile:
      give(slice.file.get());
      break;
    case Hands::kPipe: {
      int ends[2];
      EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
      files.emplace_back(ends[0]);
      static std::vector<UniqueFd> writers;  // or it would read as empty
      writers.emplace_back(ends[1]);
      break;
    }
    case Hands::kOtherFile:
      files.emplace_back(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
      break;
    case Hands::kTooMany:
      for (int i = 0; i < 200; ++i) give(slice.file.get());
      break;
  }
  return files;
}

// False files stay as they are.
void ScriptedServer::put(Slice& slice, std::uint32_t slot, Stored stored) const {
  if (settings_.hands == Hands::kFile) {
    protocol::SlotMark mark{.version = stored.version, .tag = stored.tag};
    mark.length = static_cast<std::uint16_t>(stored.bytes.size());
    mark.stored = stored.empty ? 0 : 1;
    const auto write = [&](const void* bytes, std::size_t size, std::uint64_t at) {
      EXPECT_EQ(::pwrite(slice.file.get(), bytes, size, static_cast<off_t>(at)), static_cast<ssize_t>(size));
    };
    write(stored.bytes.data(), stored.bytes.size(), protocol::page_offset(slot));
    write(&mark, sizeof mark, protocol::mark_offset(slice.claims.slots, slot));
  }
  slice.slots[slot] = std::move(stored);
}

Buffer ScriptedServer::answer_to(const protocol::Frame& frame) {
  Buffer answer;
  const std::uint64_t id = frame.header.id;
  const auto refuse = [&](ErrorCode why) {
    protocol::append_answer(answer, frame.header.type, id, why);
    return answer;
  };
  if (const auto read = protocol::parse_read(frame.body); read && frame.header.type == MessageType::kRead) {
    if (read->scope.boot != settings_.boot) return refuse(ErrorCode::kWrongBoot);
    if (!slices_.contains(read->scope.slice)) return refuse(ErrorCode::kNoSuchSlice);
    auto& slots = slices_[read->scope.slice].slots;
    std::vector<protocol::ReadAnswer> entries;
    Buffer payloads;
    for (std::size_t i = 0; i < read->entries.size(); ++i) {
      const std::uint32_t slot = read->entries[i].slot;
      const Stored& stored = slots[slot];
      if (stored.empty) {
        entries.push_back({.slot = slot, .status = ErrorCode::kEmpty});
        continue;
      }
      entries.push_back({.slot = slot,
                         .version = stored.version,
                         .length = static_cast<std::uint16_t>(stored.bytes.size()),
                         .tag = stored.tag});
      payloads.insert(payloads.end(), stored.bytes.begin(), stored.bytes.end());
    }
    protocol::append_read_answer(answer, id, entries);
    answer.insert(answer.end(), payloads.begin(), payloads.end());
    return answer;
  }
  std::vector<protocol::ItemStatus> statuses;
  const auto change = [&](protocol::SliceId of, std::uint32_t slot, Stored stored) {
    Slice& slice = slices_[of];
    const bool stale = stored.version <= slice.slots[slot].version;
    if (!stale) put(slice, slot, std::move(stored));
    statuses.push_back({slot, stale ? ErrorCode::kStaleVersion : ErrorCode::kOk});
  };
  if (const auto write = protocol::parse_write(frame.body); write && frame.header.type == MessageType::kWrite) {
    if (!slices_.contains(write->scope.slice)) return refuse(ErrorCode::kNoSuchSlice);
    for (auto walk = write->pages.walk(); walk.next();) {
      change(write->scope.slice, walk.entry().slot,
             {walk.entry().version, walk.entry().tag, {walk.payload().begin(), walk.payload().end()}, false});
    }
  } else if (const auto discard = protocol::parse_discard(frame.body)) {
    if (!slices_.contains(discard->scope.slice)) return refuse(ErrorCode::kNoSuchSlice);
    for (std::size_t i = 0; i < discard->entries.size(); ++i) {
      change(discard->scope.slice, discard->entries[i].slot, {discard->entries[i].version, {}, {}, true});
    }
  } else {
    ADD_FAILURE() << "the link sent what makes no sense";
  }
  protocol::append_item_statuses(answer, frame.header.type, id, statuses);
  return answer;
}

void ScriptedServer::pages(Peer& peer, const protocol::Frame& frame) {
  seen_.push_back(frame.header.type);
  const Deed deed = deed_;
  if (deed == Deed::kSilence) return;
  Buffer answer = answer_to(frame);
  const auto overwrite = [&](std::size_t at, auto value) { std::memcpy(answer.data() + at, &value, sizeof value); };
  switch (deed) {
    case Deed::kHold:
      return peer.held.push_back(std::move(answer));
    case Deed::kTwice: {
      send(peer, answer);
      answer.back() ^= std::byte{0xff};
      return send(peer, std::move(answer));
    }
    case Deed::kUnasked:
      overwrite(16, std::uint64_t{0x4711'0000'0001});
      break;
    case Deed::kOtherSlot:
      overwrite(protocol::kHeaderBytes + protocol::kCountBytes, std::uint32_t{999'999});
      break;
    case Deed::kOtherType:
      overwrite(4, static_cast<std::uint16_t>(MessageType::kPing));
      break;
    case Deed::kTooLong:
      overwrite(protocol::kHeaderBytes + protocol::kCountBytes + 6, std::uint16_t{0xffff});
      break;
    default:
      break;
  }
  send(peer, std::move(answer), deed);
}

void ScriptedServer::send(Peer& peer, Buffer frame, Deed deed, std::vector<UniqueFd> files) {
  if (peer.keyed && deed != Deed::kNoTag) {
    protocol::Tag tag{};
    EXPECT_TRUE(peer.outgoing->seal(frame, tag));
    if (deed == Deed::kWrongTag) tag[3] ^= 1;
    const auto bytes = std::as_bytes(std::span(tag));
    frame.insert(frame.end(), bytes.begin(), bytes.end());
  }
  if (deed == Deed::kGarbage) frame.assign(500, std::byte{0x5a});
  if (deed == Deed::kCutFrame) frame.resize(frame.size() / 2);
  std::span<const std::byte> rest(frame);
  while (!rest.empty()) {
    iovec bytes{const_cast<std::byte*>(rest.data()), rest.size()};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    alignas(cmsghdr) std::array<std::byte, kernel::control_bytes(200)> control{};
    std::vector<int> descriptors;
    for (const UniqueFd& each : files) descriptors.push_back(each.get());
    if (!files.empty()) kernel::attach_descriptors(message, control, descriptors);
    const ssize_t sent = ::sendmsg(peer.socket.get(), &message, MSG_NOSIGNAL);
    files.clear();
    if (sent < 0) {
      peer.ended = true;
      return;
    }
    rest = rest.subspan(static_cast<std::size_t>(sent));
  }
  if (deed == Deed::kCutFrame) {
    ::shutdown(peer.socket.get(), SHUT_RDWR);
    peer.ended = true;
  }
}

protocol::Random ScriptedServer::random_of(const Peer& peer) {
  return protocol::parse_welcome(std::span(peer.welcome).subspan(protocol::kHeaderBytes))->random;
}

void ScriptedServer::release_held() {
  const std::lock_guard lock(mutex_);
  for (const auto& peer : peers_) {
    for (Buffer& held : peer->held) send(*peer, std::move(held));
    peer->held.clear();
  }
}

void ScriptedServer::cut() {
  const std::lock_guard lock(mutex_);
  peers_.clear();
}

void ScriptedServer::stop() {
  const std::lock_guard lock(mutex_);
  peers_.clear();
  listener_.reset();
}

void ScriptedServer::restart(const ServerSettings& settings) {
  const std::lock_guard lock(mutex_);
  peers_.clear();
  listener_.reset();
  slices_.clear();
  settings_ = settings;
  listen_anew();
}

void ScriptedServer::grant(std::uint32_t credit) {
  const std::lock_guard lock(mutex_);
  for (const auto& peer : peers_) {
    Buffer frame;
    protocol::append_credit(frame, {credit});
    send(*peer, std::move(frame));
  }
}

void ScriptedServer::announce_draining() {
  const std::lock_guard lock(mutex_);
  for (const auto& peer : peers_) {
    Buffer frame;
    protocol::append_draining(frame);
    send(*peer, std::move(frame));
  }
}

std::size_t ScriptedServer::attached_slices() {
  const std::lock_guard lock(mutex_);
  return slices_.size();
}

std::vector<MessageType> ScriptedServer::requests_for_pages() {
  const std::lock_guard lock(mutex_);
  return seen_;
}

}  // namespace tidepool::pool
