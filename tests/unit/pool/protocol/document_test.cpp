// Goal: docs/protocol.md says what the code does.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "pool/protocol/codec.h"

namespace tidepool::protocol {
namespace {

const std::string& document() {
  static const std::string text = [] {
    std::stringstream all;
    all << std::ifstream(TIDEPOOL_SOURCE_DIR "/docs/protocol.md").rdbuf();
    return all.str();
  }();
  return text;
}
void expect_says(const std::string& words) {
  EXPECT_NE(document().find(words), std::string::npos) << "docs/protocol.md does not say: " << words;
}

TEST(ProtocolDocument, HasTheSizesAndBoundsOfTheCode) {
  expect_says("Version " + std::to_string(kVersion) + ".");
  expect_says("`0x31504454`");
  EXPECT_EQ(kMagic, 0x31504454u);
  expect_says("| " + std::to_string(kHeaderBytes) + " | | body |");
  expect_says("at most 264,232");
  EXPECT_EQ(kMaxBodyBytes, 264'232u);
  expect_says("**HELLO**, " + std::to_string(kHelloBytes) + " bytes");
  expect_says("**WELCOME**, " + std::to_string(kWelcomeBytes) + " bytes and a name");
  expect_says("length of the name (2, at most " + std::to_string(kMaxName) + ")");
  expect_says("**Claims**, " + std::to_string(kClaimsBytes) + " bytes");
  expect_says("**The answer to ATTACH**, " + std::to_string(kAttachedBytes) + " bytes");
  expect_says("**Scope**, " + std::to_string(kScopeBytes) + " bytes");
  expect_says("**Count**, " + std::to_string(kCountBytes) + " bytes");
  expect_says("1 to " + std::to_string(kMaxPagesPerFrame) + ".");
  expect_says("| READ | " + std::to_string(kReadEntryBytes) + " |");
  expect_says("| READ's answer | " + std::to_string(kReadAnswerBytes) + " |");
  expect_says("| WRITE | " + std::to_string(kWriteEntryBytes) + " |");
  expect_says("| DISCARD | " + std::to_string(kDiscardEntryBytes) + " |");
  expect_says("| their answers | " + std::to_string(kItemStatusBytes) + " |");
  expect_says("at most " + std::to_string(kMaxUncreditedRequests) + " of them may be unanswered");
}

TEST(ProtocolDocument, NumbersItsMessagesAndErrorsAsTheCodeDoes) {
  const auto number = [](auto value) { return std::to_string(static_cast<unsigned>(value)); };
  const std::pair<MessageType, const char*> types[] = {
      {MessageType::kHello, "HELLO"},      {MessageType::kWelcome, "WELCOME"}, {MessageType::kAttach, "ATTACH"},
      {MessageType::kRead, "READ"},        {MessageType::kWrite, "WRITE"},     {MessageType::kDiscard, "DISCARD"},
      {MessageType::kPing, "PING"},        {MessageType::kRelease, "RELEASE"}, {MessageType::kCredit, "CREDIT"},
      {MessageType::kDraining, "DRAINING"}};
  for (const auto& [type, name] : types) expect_says("| " + number(type) + " | " + name + " |");
  const std::pair<ErrorCode, const char*> codes[] = {{ErrorCode::kOk, "OK"},
                                                     {ErrorCode::kMalformed, "MALFORMED"},
                                                     {ErrorCode::kNoVersion, "VERSION"},
                                                     {ErrorCode::kDenied, "DENIED"},
                                                     {ErrorCode::kNoSuchSlice, "NO_SUCH_SLICE"},
                                                     {ErrorCode::kStaleEpoch, "STALE_EPOCH"},
                                                     {ErrorCode::kWrongBoot, "WRONG_BOOT"},
                                                     {ErrorCode::kExpired, "EXPIRED"},
                                                     {ErrorCode::kOverloaded, "OVERLOADED"},
                                                     {ErrorCode::kFull, "FULL"},
                                                     {ErrorCode::kDrainingNow, "DRAINING"},
                                                     {ErrorCode::kOutOfRange, "OUT_OF_RANGE"},
                                                     {ErrorCode::kStaleVersion, "STALE_VERSION"},
                                                     {ErrorCode::kEmpty, "EMPTY"},
                                                     {ErrorCode::kUnsupported, "UNSUPPORTED"}};
  for (const auto& [code, name] : codes) expect_says("| " + number(code) + " | " + name + " |");
}

}  // namespace
}  // namespace tidepool::protocol
