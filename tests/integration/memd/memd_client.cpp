#include "tests/integration/memd/memd_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <random>

namespace tidepool::pool::server::testing {

using protocol::Buffer;
using protocol::ErrorCode;

protocol::Claims claims_for(std::uint64_t slice, std::uint8_t holder, std::uint32_t slots, std::uint64_t epoch) {
  protocol::Claims claims;
  claims.slice = protocol::SliceId{slice};
  claims.holder.fill(holder);
  claims.epoch = protocol::LeaseEpoch{epoch};
  claims.slots = slots;
  claims.rights = kEveryRight;
  return claims;
}

std::vector<std::byte> page_with(std::uint64_t seed, std::size_t bytes) {
  std::mt19937_64 random(seed * 77 + 1);
  std::vector<std::byte> page(bytes);
  for (std::byte& each : page) each = static_cast<std::byte>(random() | 1);
  return page;
}

namespace {

UniqueFd connect_to(const std::string& address) {
  sockaddr_storage storage{};
  socklen_t length = 0;
  int family = AF_UNIX;
  if (address.starts_with("unix:")) {
    sockaddr_un un{};
    un.sun_family = AF_UNIX;
    std::strncpy(un.sun_path, address.c_str() + 5, sizeof un.sun_path - 1);
    std::memcpy(&storage, &un, sizeof un);
    length = sizeof un;
  } else {
    sockaddr_in in{};
    family = in.sin_family = AF_INET;
    in.sin_port = htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    std::memcpy(&storage, &in, sizeof in);
    length = sizeof in;
  }
  UniqueFd fd{::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  const timeval patience{60, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const int on = 1;
  if (family == AF_INET) ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd.get(), static_cast<const sockaddr*>(static_cast<const void*>(&storage)), length) != 0) return {};
  return fd;
}

}  // namespace

MemdClient::MemdClient(const std::string& address, const protocol::ServerKey& key)
    : key_(key), fd_(connect_to(address)) {}

MemdClient::Status MemdClient::hello(std::uint32_t features) {
  protocol::Hello hello;
  hello.features = features;
  random_ = hello.random = protocol::fresh_random().value();
  Buffer frame;
  protocol::append_hello(frame, next_id(), hello);
  if (!send(frame)) return std::nullopt;
  const auto answer = receive();
  if (!answer) return std::nullopt;
  if (answer->header.status != ErrorCode::kOk) return answer->header.status;
  const auto parsed = protocol::parse_welcome(answer->body);
  if (!parsed) return std::nullopt;
  welcome = *parsed;
  boot = welcome.boot;
  tags_ = (welcome.features & protocol::kFeatureAuthenticatedFrames) != 0;
  Buffer welcomed;
  protocol::append_header(welcomed, answer->header);
  welcomed.insert(welcomed.end(), answer->body.begin(), answer->body.end());
  transcript_ = protocol::transcript_digest(frame, welcomed);
  return ErrorCode::kOk;
}

MemdClient::Status MemdClient::attach(const protocol::Claims& claims) {
  const protocol::LeaseSecret secret = protocol::lease_secret(key_, claims);
  Buffer frame;
  const std::uint64_t id = next_id();
  protocol::append_attach(frame, id, {claims, protocol::attach_proof(secret, transcript_, claims)});
  if (!send(frame)) return std::nullopt;
  if (tags_ && !from_server_) {
    const auto keys = protocol::frame_keys(secret, random_, welcome.random, transcript_);
    from_server_ = std::move(protocol::FrameGuard::make(keys.to_client).value());
    to_server_ = std::move(protocol::FrameGuard::make(keys.to_server).value());
  }
  const auto answer = await_answer(id);
  if (!answer) return std::nullopt;
  if (answer->header.status != ErrorCode::kOk) {
    if (tags_ && !answer->tagged) {  // it did not key the connection
      from_server_.reset();
      to_server_.reset();
    }
    return answer->header.status;
  }
  const auto attached = protocol::parse_attached(answer->body);
  if (!attached || attached->slice != claims.slice) return std::nullopt;
  created = attached->created;
  return ErrorCode::kOk;
}

MemdClient::Status MemdClient::open(const protocol::Claims& claims) {
  const Status greeted = hello();
  return greeted == ErrorCode::kOk ? attach(claims) : greeted;
}

MemdClient::Status MemdClient::write(const protocol::Claims& of, std::uint32_t slot, std::uint64_t version,
                                     std::span<const std::byte> page) {
  Buffer frame;
  const std::uint64_t id = next_id();
  protocol::WriteEntry entry{slot, version, static_cast<std::uint16_t>(page.size()), {}};
  entry.tag.fill(static_cast<std::uint8_t>(version));
  protocol::append_write(frame, id, scope(of), std::span(&entry, 1));
  frame.insert(frame.end(), page.begin(), page.end());
  if (!send(std::move(frame))) return std::nullopt;
  return first_status(id);
}

MemdClient::Status MemdClient::discard(const protocol::Claims& of, std::uint32_t slot, std::uint64_t version) {
  Buffer frame;
  const std::uint64_t id = next_id();
  const protocol::DiscardEntry entry{slot, version};
  protocol::append_discard(frame, id, scope(of), std::span(&entry, 1));
  if (!send(std::move(frame))) return std::nullopt;
  return first_status(id);
}

MemdClient::Status MemdClient::first_status(std::uint64_t id) {
  const auto answer = await_answer(id);
  if (!answer) return std::nullopt;
  if (answer->header.status != ErrorCode::kOk) return answer->header.status;
  const auto items = protocol::parse_item_statuses(answer->body);
  if (!items || items->size() != 1) return std::nullopt;
  return (*items)[0].status;
}

MemdClient::Status MemdClient::read(const protocol::Claims& of, std::uint32_t slot, PageAnswer& page) {
  const protocol::ReadEntry entry{slot};
  send_read(of, std::span(&entry, 1));
  const auto answer = await_answer(id_);
  if (!answer) return std::nullopt;
  if (answer->header.status != ErrorCode::kOk) return answer->header.status;
  const auto first = first_page(*answer);
  if (!first) return std::nullopt;
  page = *first;
  return page.answer.status;
}

std::optional<PageAnswer> MemdClient::first_page(const Message& message) {
  const auto pages = protocol::parse_read_answer(message.body);
  if (!pages || pages->size() == 0) return std::nullopt;
  auto walk = pages->walk();
  walk.next();
  return PageAnswer{walk.entry(), {walk.payload().begin(), walk.payload().end()}};
}

void MemdClient::send_read(const protocol::Claims& of, std::span<const protocol::ReadEntry> slots) {
  Buffer frame;
  protocol::append_read(frame, next_id(), scope(of), slots);
  send(std::move(frame));
}

MemdClient::Status MemdClient::release(const protocol::Claims& of) {
  Buffer frame;
  const std::uint64_t id = next_id();
  protocol::append_release(frame, id, scope(of));
  if (!send(std::move(frame))) return std::nullopt;
  const auto answer = await_answer(id);
  return answer ? std::optional(answer->header.status) : std::nullopt;
}

MemdClient::Status MemdClient::ping() {
  Buffer frame;
  const std::uint64_t id = next_id();
  protocol::append_ping(frame, id);
  if (!send(std::move(frame))) return std::nullopt;
  const auto answer = await_answer(id);
  return answer ? std::optional(answer->header.status) : std::nullopt;
}

bool MemdClient::send(Buffer frame) {
  if (to_server_) {
    protocol::Tag tag{};
    if (!to_server_->seal(std::span(frame), tag)) return false;
    const auto* bytes = static_cast<const std::byte*>(static_cast<const void*>(tag.data()));
    frame.insert(frame.end(), bytes, bytes + tag.size());
  }
  return send_bytes(frame);
}

bool MemdClient::send_bytes(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
  return true;
}

std::optional<Message> MemdClient::receive() {
  protocol::Frame frame;
  while (true) {
    const auto got = reader_.next(frame);
    if (got == protocol::FrameReader::Got::kBad) return std::nullopt;
    if (got == protocol::FrameReader::Got::kFrame) break;
    const std::span<std::byte> room = reader_.room();
    const ssize_t bytes = ::recv(fd_.get(), room.data(), room.size(), 0);
    if (bytes <= 0) return std::nullopt;
    reader_.received(static_cast<std::size_t>(bytes));
  }
  const bool tagged = protocol::has_tag(frame.header);
  if (from_server_ && tagged && !from_server_->check(frame.head, frame.body, frame.tag)) return std::nullopt;
  return Message{frame.header, {frame.body.begin(), frame.body.end()}, tagged};
}

std::optional<Message> MemdClient::await_answer(std::uint64_t id) {
  while (true) {
    auto message = receive();
    if (!message || message->header.id == id) return message;
    unasked.push_back(std::move(*message));
  }
}

bool MemdClient::await_end() {
  std::array<std::byte, 65536> dust{};
  while (true) {
    const ssize_t bytes = ::recv(fd_.get(), dust.data(), dust.size(), 0);
    if (bytes == 0) return true;
    if (bytes < 0) return errno == ECONNRESET || errno == EPIPE;
  }
}

}  // namespace tidepool::pool::server::testing
