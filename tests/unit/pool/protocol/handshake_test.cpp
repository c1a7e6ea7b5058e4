// Goal: a proof is worth something for its token, its connection and what was agreed there, and nowhere else.
#include "pool/protocol/handshake.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/unit/pool/protocol/sample_messages.h"

namespace tidepool::protocol {
namespace {

ServerKey server_key(std::uint8_t first = 1) {
  return counted_bytes<ServerKey>(first);
}

Buffer hello_frame(Hello hello = sample_hello()) {
  Buffer frame;
  append_hello(frame, 1, hello);
  return frame;
}
Buffer welcome_frame(const Welcome& welcome = sample_welcome()) {
  Buffer frame;
  append_welcome(frame, 1, welcome);
  return frame;
}
TranscriptDigest transcript() {
  return transcript_digest(hello_frame(), welcome_frame());
}

TEST(Handshake, AProofOfTheSecretIsAccepted) {
  const LeaseSecret secret = lease_secret(server_key(), sample_claims());
  const Proof proof = attach_proof(secret, transcript(), sample_claims());
  EXPECT_TRUE(proves(proof, secret, transcript(), sample_claims()));
  EXPECT_FALSE(proves({}, secret, transcript(), sample_claims()));
}

TEST(Handshake, EveryClaimAndTheServersKeyMakeTheSecret) {
  std::set<LeaseSecret> secrets{lease_secret(server_key(), sample_claims()),
                                lease_secret(server_key(2), sample_claims())};
  const auto with = [&](auto change) {
    Claims claims = sample_claims();
    change(claims);
    secrets.insert(lease_secret(server_key(), claims));
  };
  with([](Claims& claims) { claims.slice = SliceId{1}; });
  with([](Claims& claims) { claims.holder[15] ^= 1; });
  with([](Claims& claims) { claims.epoch = LeaseEpoch{8}; });
  with([](Claims& claims) { ++claims.slots; });
  with([](Claims& claims) { claims.rights |= kRightRelease; });
  with([](Claims& claims) { claims.lease_ms = 0; });
  EXPECT_EQ(secrets.size(), 8u);
}

TEST(Handshake, AProofDoesNotServeAnotherConnection) {
  const LeaseSecret secret = lease_secret(server_key(), sample_claims());
  const Proof proof = attach_proof(secret, transcript(), sample_claims());
  Welcome other = sample_welcome();
  other.random[0] ^= 1;
  EXPECT_FALSE(proves(proof, secret, transcript_digest(hello_frame(), welcome_frame(other)), sample_claims()));
}

// Who sits between the two and turns a version or a feature down.
TEST(Handshake, ADowngradeIsNoticed) {
  const LeaseSecret secret = lease_secret(server_key(), sample_claims());
  Hello sent = sample_hello();
  sent.highest_version = kVersion + 1;
  Hello received = sent;
  received.highest_version = kVersion;
  const Proof proof = attach_proof(secret, transcript_digest(hello_frame(sent), welcome_frame()), sample_claims());
  EXPECT_FALSE(proves(proof, secret, transcript_digest(hello_frame(received), welcome_frame()), sample_claims()));

  received = sent;
  received.features = 0;
  EXPECT_FALSE(proves(proof, secret, transcript_digest(hello_frame(received), welcome_frame()), sample_claims()));

  Welcome turned = sample_welcome();
  turned.features = 0;
  EXPECT_FALSE(proves(proof, secret, transcript_digest(hello_frame(sent), welcome_frame(turned)), sample_claims()));
}

TEST(Handshake, NoByteOfOneGreetingCountsAsTheOthers) {
  const Buffer bytes(20, std::byte{7});
  const std::span<const std::byte> all(bytes);
  EXPECT_NE(transcript_digest(all.first(8), all.subspan(8)), transcript_digest(all.first(9), all.subspan(9)));
}

TEST(Handshake, EachDirectionAndConnectionHasKeysOfItsOwn) {
  const LeaseSecret secret = lease_secret(server_key(), sample_claims());
  const Random client = sample_hello().random;
  const Random server = sample_welcome().random;
  const FrameKeys keys = frame_keys(secret, client, server, transcript());
  EXPECT_NE(keys.to_server, keys.to_client);
  std::set<FrameKey> all{keys.to_server, keys.to_client};
  const auto with = [&](const FrameKeys& others) { all.insert({others.to_server, others.to_client}); };
  Random changed = client;
  changed[31] ^= 1;
  with(frame_keys(secret, changed, server, transcript()));
  with(frame_keys(secret, client, changed, transcript()));
  with(frame_keys(lease_secret(server_key(2), sample_claims()), client, server, transcript()));
  with(frame_keys(secret, client, server, transcript_digest(welcome_frame(), hello_frame())));
  EXPECT_EQ(all.size(), 10u);
}

// Held against an implementation that is not ours: Python's hmac module.
TEST(Handshake, TheValuesAreThoseOfTheDocument) {
  const auto hex = [](const auto& bytes) {
    std::string text;
    for (const std::uint8_t byte : bytes) {
      text += "0123456789abcdef"[byte / 16];
      text += "0123456789abcdef"[byte % 16];
    }
    return text;
  };
  const LeaseSecret secret = lease_secret(server_key(), sample_claims());
  EXPECT_EQ(hex(secret), "966324fead01527458b5a8987a4b6b145ddfa98b87a8f74727cb50c4b492519e");
  EXPECT_EQ(hex(transcript()), "e4ba8df26687996a8e0e739b700e9463d1e8d8a092e3dca8eb5d1641ef3ae5f7");
  EXPECT_EQ(hex(attach_proof(secret, transcript(), sample_claims())),
            "4b1f945fa443e54237c61bbd36e9e87a9de98fea7098d9db6c686206de44c8e3");
  const FrameKeys keys = frame_keys(secret, sample_hello().random, sample_welcome().random, transcript());
  EXPECT_EQ(hex(keys.to_server), "b24887582262db3fe49f0d1ef150490fa326dd0f98d42a4051dfd206075fa88b");
  EXPECT_EQ(hex(keys.to_client), "15117955e200f762217492a1110e0ae0c5c3662bc10eef0cb653d08fc516d9b8");
}

TEST(Handshake, TheHighestCommonVersionIsTaken) {
  Hello hello;
  EXPECT_EQ(common_version(hello), kVersion);
  hello.highest_version = 9;
  EXPECT_EQ(common_version(hello), kVersion);
  hello.lowest_version = kVersion + 1;
  EXPECT_FALSE(common_version(hello));
  hello = {.lowest_version = 0, .highest_version = 0};
  EXPECT_FALSE(common_version(hello));
}

TEST(Handshake, RandomnessIsFresh) {
  const auto one = fresh_random();
  const auto other = fresh_random();
  ASSERT_TRUE(one && other);
  EXPECT_NE(*one, *other);
  EXPECT_NE(*one, Random{});
}

}  // namespace
}  // namespace tidepool::protocol
