#include "pool/server/registration.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "base/text.h"
#include "service/log.h"

namespace tidepool::pool::server {
namespace {

using controller::Answer;
using controller::FreeCommand;
using controller::Refusal;
using controller::ServerAnswer;

constexpr Nanoseconds kShortestPause = std::chrono::milliseconds(200);
constexpr Nanoseconds kLongestPause = std::chrono::seconds(5);
// Whatever the controller says: it hears from this server neither all the time nor never.
constexpr std::uint64_t kShortestBeatMs = 50;
constexpr std::uint64_t kLongestBeatMs = 60'000;
constexpr Nanoseconds kPatienceAtTheEnd = std::chrono::seconds(1);
constexpr std::size_t kChunksPerScrub = 16;

}  // namespace

Registration::Registration(std::unique_ptr<controller::ControllerPort> port, RegistrationOptions options,
                           Server& server, const Clock& clock)
    : port_(std::move(port)),
      options_(std::move(options)),
      server_(server),
      clock_(clock),
      pause_(kShortestPause),
      heard_(clock.now()),
      thread_([this] { run(); }) {}

Registration::~Registration() {
  {
    std::unique_lock lock(mutex_);
    ending_ = true;
    wake_.notify_all();
    // The last heartbeat has its time, and no more.
    wake_.wait_for(lock, kPatienceAtTheEnd, [this] { return ended_; });
  }
  port_->stop();
  thread_.join();
}

void Registration::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = hurry_ = true;
  wake_.notify_all();
}

RegistrationFigures Registration::figures() const {
  const std::lock_guard lock(mutex_);
  RegistrationFigures figures = figures_;
  figures.silent = clock_.now() - heard_;
  return figures;
}

void Registration::run() {
  bool leaving = false;
  do {
    const Result<Answer> answer = tell(false);
    take(answer);
    leaving = !wait(pause_);
  } while (!leaving);
  if (figures().registered) (void)tell(true);
  const std::lock_guard lock(mutex_);
  ended_ = true;
  wake_.notify_all();
}

// False: it is time to end.
bool Registration::wait(Nanoseconds time) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, time, [this] { return ending_ || hurry_; });
  hurry_ = false;
  return !ending_;
}

Result<Answer> Registration::tell(bool leaving) {
  const SliceStore& slices = server_.slices();
  const SliceFigures memory = slices.figures();
  if (!figures().registered && !leaving) {
    controller::RegisterServer request{.name = options_.name,
                                       .boot = server_.boot(),
                                       .address = options_.address,
                                       .domain = options_.domain,
                                       .capacity = memory.capacity,
                                       .key = options_.key,
                                       .slices = {}};
    for (const SliceStore::Held& held : slices.held()) request.slices.push_back({held.slice, held.epoch});
    return port_->call(request);
  }
  controller::ServerHeartbeat request;
  request.name = options_.name;
  request.boot = server_.boot();
  request.free = saturating_sub(memory.capacity, memory.lent + memory.scrubbing);
  told_.assign(done_.begin(),
               done_.begin() + static_cast<std::ptrdiff_t>(std::min(done_.size(), controller::kMostSlicesPerRequest)));
  request.done = told_;
  request.leaving = leaving;
  {
    const std::lock_guard lock(mutex_);
    request.draining = draining_;
  }
  return port_->call(request);
}

void Registration::take(const Result<Answer>& answer) {
  const auto* well = answer ? std::get_if<ServerAnswer>(&*answer) : nullptr;
  if (well == nullptr) {
    const auto* refusal = answer ? std::get_if<Refusal>(&*answer) : nullptr;
    const std::string why = printable(!answer              ? answer.error().message()
                                      : refusal != nullptr ? controller::error_of(*refusal).message()
                                                           : "it answered something else");
    bool fresh = false;
    {
      const std::lock_guard lock(mutex_);
      // It knows another boot, or nothing of this one.
      if (refusal != nullptr && refusal->code == Refusal::Code::kStale) figures_.registered = false;
      fresh = figures_.trouble != why;
      figures_.trouble = why;
      ++figures_.failures;
    }
    if (fresh) spdlog::warn("msg=\"the controller does not answer as it should\" error={}", in_quotes(why));
    pause_ = std::min(2 * pause_, kLongestPause);
    return;
  }
  bool fresh = false;
  {
    const std::lock_guard lock(mutex_);
    fresh = !figures_.registered || !figures_.trouble.empty();
    if (well->drain != figures_.draining && !draining_)
      spdlog::info("msg=\"the controller {} this server\"", well->drain ? "drains" : "does not drain");
    figures_.registered = !well->register_again;
    figures_.draining = well->drain;
    figures_.trouble.clear();
    heard_ = clock_.now();
  }
  if (fresh) spdlog::info("msg=\"registered with the controller\" name={}", options_.name);
  std::erase_if(done_, [this](const FreeCommand& each) {
    return std::ranges::any_of(
        told_, [&](const FreeCommand& told) { return told.slice == each.slice && told.below == each.below; });
  });
  told_.clear();
  free(well->free);
  const std::uint64_t beat = std::clamp(well->heartbeat_ms, kShortestBeatMs, kLongestBeatMs);
  // What was freed is told soon: somebody waits for the memory.
  pause_ = done_.empty() && !well->register_again
               ? Nanoseconds(std::chrono::milliseconds(beat))
               : std::min<Nanoseconds>(kShortestPause, std::chrono::milliseconds(beat));
}

void Registration::free(const std::vector<FreeCommand>& commands) {
  if (commands.empty()) return;
  for (const FreeCommand& command : commands) {
    server_.slices().free_below(command.slice, command.below);
    const bool known = std::ranges::any_of(
        done_, [&](const FreeCommand& each) { return each.slice == command.slice && each.below == command.below; });
    if (!known) done_.push_back(command);
  }
  // Zeroed when the controller hears of it.
  while (server_.slices().scrub(kChunksPerScrub)) {
  }
  const std::lock_guard lock(mutex_);
  figures_.freed += commands.size();
}

}  // namespace tidepool::pool::server
