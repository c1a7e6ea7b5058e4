#include "pool/controller/core/core.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "base/text.h"
#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

// What the core did not listen for does not count as silence of others: a tick is due several times per second.
void forgive_absence(State& state, MonoTime now) {
  const Nanoseconds absent = now - state.context.now;
  if (absent < state.config.suspect_after / 2) return;
  const auto later = [&](MonoTime& time) { time = std::min(now, time + absent); };
  for (auto& [name, server] : state.servers) later(server.seen);
  for (auto& [name, host] : state.hosts) later(host.seen);
  for (Offer& offer : state.offers) offer.until = offer.until + absent;
}

std::vector<StateChange> take_changes(State& state) {
  std::vector<StateChange> changes;
  changes.reserve(state.changes.size());
  for (auto& [key, value] : state.changes) changes.push_back({key, std::move(value)});
  state.changes.clear();
  return changes;
}

}  // namespace

tl::unexpected<Refusal> refuse(Refusal::Code code, std::string message, std::string remedy, std::string arithmetic,
                               std::uint64_t retry_after_ms) {
  Refusal refusal;
  refusal.code = code;
  refusal.message = std::move(message);
  refusal.remedy = std::move(remedy);
  refusal.arithmetic = std::move(arithmetic);
  refusal.retry_after_ms = retry_after_ms;
  return tl::unexpected(std::move(refusal));
}

bool is_name(const std::string& name) {
  return !name.empty() && name.size() <= kMostNameBytes && std::ranges::all_of(name, [](char each) {
    return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') || (each >= '0' && each <= '9') ||
           each == '.' || each == '_' || each == '-';
  });
}

bool is_vm_name(const std::string& name) {
  return !name.empty() && name.size() <= kMostVmNameBytes && printable(name) == name;
}

std::string size_text(Bytes bytes) {
  if (bytes.value == kNoLimit) return "unlimited";
  std::array<char, 32> text{};
  const double mib = static_cast<double>(bytes.value) / (1 << 20);
  std::snprintf(text.data(), text.size(), mib >= 1024 ? "%.4g GiB" : "%.4g MiB", mib >= 1024 ? mib / 1024 : mib);
  return text.data();
}

Core::Core(const CoreConfig& config) : state_(std::make_unique<State>(config)) {}
Core::~Core() = default;
Core::Core(Core&&) noexcept = default;
Core& Core::operator=(Core&&) noexcept = default;

Outcome Core::apply(const Request& request, const Context& context) {
  forgive_absence(*state_, context.now);
  state_->context = context;
  Handled handled = std::visit([this](const auto& each) { return handle(*state_, each); }, request);
  Outcome outcome;
  outcome.answer = handled ? std::move(*handled) : Answer{std::move(handled.error())};
  outcome.changes = take_changes(*state_);
  return outcome;
}

Core::Tick Core::tick(const Context& context) {
  forgive_absence(*state_, context.now);
  state_->context = context;
  watch_servers(*state_);
  end_offers(*state_);
  Tick tick;
  tick.again = end_lives(*state_);
  if (state_->next_round <= context.now) distribute_shares(*state_);
  tick.again = plan_copies(*state_) || tick.again;
  tick.changes = take_changes(*state_);
  return tick;
}

void Core::distribute(const Context& context) {
  state_->context = context;
  distribute_shares(*state_);
}

}  // namespace tidepool::pool::controller
