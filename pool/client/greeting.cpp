#include "pool/client/greeting.h"

#include "pool/protocol/codec.h"

namespace tidepool::pool {
namespace {

// Room for what later versions may add.
constexpr std::size_t kLongestWelcome = 1024;
constexpr std::uint64_t kGreetingId = 1;

Failure refused(std::string why) {
  return failure(std::errc::protocol_error, "greet", "memory server", std::move(why));
}

}  // namespace

Result<Greeting> greet(int socket, bool authenticate, bool share_memory, const Patience& patience) {
  Greeting greeting;
  const auto random = protocol::fresh_random();
  if (!random) return Failure{random.error()};
  greeting.random = *random;
  protocol::Buffer hello;
  const std::uint32_t offered =
      (authenticate ? protocol::kFeatureAuthenticatedFrames : 0) | (share_memory ? protocol::kFeatureSharedMemory : 0);
  protocol::append_hello(hello, kGreetingId, {.features = offered, .random = greeting.random});
  if (auto sent = send_all(socket, hello, patience); !sent) return Failure{sent.error()};

  protocol::Buffer frame(protocol::kHeaderBytes);
  if (auto got = receive_all(socket, frame, patience); !got) return Failure{got.error()};
  const auto header = protocol::parse_header(frame);
  if (!header || header->body_bytes > kLongestWelcome || !protocol::is_answer(*header) || protocol::has_tag(*header) ||
      header->id != kGreetingId)
    return refused("what answers there is not a memory server");
  frame.resize(protocol::kHeaderBytes + header->body_bytes);
  if (auto got = receive_all(socket, std::span(frame).subspan(protocol::kHeaderBytes), patience); !got)
    return Failure{got.error()};
  if (header->status != protocol::ErrorCode::kOk) return refused(protocol::describe(header->status));
  if (header->type != protocol::MessageType::kWelcome) return refused("it answered with something else");
  auto welcome = protocol::parse_welcome(std::span(frame).subspan(protocol::kHeaderBytes));
  if (!welcome) return refused("its answer makes no sense");
  if (welcome->version != protocol::kVersion)
    return refused("it speaks version " + std::to_string(welcome->version) + " of the protocol, which was not offered");
  greeting.welcome = std::move(*welcome);
  // A server cannot turn on what was not offered, nor off what is needed.
  if (greeting.authenticated() != authenticate)
    return refused(authenticate ? "it does not authenticate frames, which is needed here"
                                : "it authenticates frames, which was not offered");
  if (greeting.shares_memory() && !share_memory) return refused("it hands over memory, which was not asked for");
  greeting.transcript = protocol::transcript_digest(hello, frame);
  return greeting;
}

}  // namespace tidepool::pool
