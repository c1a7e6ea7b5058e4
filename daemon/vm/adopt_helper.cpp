#include "daemon/vm/adopt_helper.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <array>
#include <cstddef>
#include <optional>
#include <utility>
#include <variant>

#include "daemon/vm/adopt_helper_placement.h"
#include "daemon/vm/adopt_helper_target.h"
#include "kmod-interfaces/drop_ring.h"
#include "kmod-interfaces/fd_passing.h"
#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::daemon {
namespace {

constexpr int kOrderWaitMs = 5000;
constexpr int kAcknowledgementWaitMs = 5000;

struct Taken {
  std::vector<PlacedFd> userfaultfds;
  UniqueFd ring;
};

Result<Taken> place(Placement& placement, const TakeOrder& order) {
  Taken taken;
  auto userfaultfds = placement.make_userfaultfds(order.userfaultfds);
  if (!userfaultfds) return tl::unexpected(userfaultfds.error());
  taken.userfaultfds = std::move(*userfaultfds);
  if (order.ring_entries != 0) {
    auto ring = placement.make_ring(order.ring_entries);
    if (!ring) return tl::unexpected(ring.error());
    taken.ring = std::move(*ring);
  }
  return taken;
}

// The one stop. Fills in the parts of `report` that tell of it.
Result<Taken> take(const TakeOrder& order, HelperReport& report) {
  // Everything that can be done before the stop is done before it.
  if (order.ring_entries != 0) {
    auto geometry = kernel::measure_drop_ring(order.ring_entries);
    if (!geometry) return tl::unexpected(geometry.error());
    report.ring_geometry = *geometry;
  }
  const UniqueFd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
  const auto target = AdoptTarget::open(order.id);
  if (!target) return tl::unexpected(target.error());
  auto stopped = target->stop(order.limits);
  if (!stopped) return tl::unexpected(stopped.error());
  report.thread = stopped->thread();
  const auto let_it_go = [&]() -> Result<> {
    const auto length = stopped->release();
    if (auto alive = target->check_alive(); !alive) return alive;
    if (!length) return tl::unexpected(length.error());
    report.stopped = *length;
    return {};
  };
  const auto place_in = [&](kernel::PtraceInjector& thread) {
    Placement placement(thread, target->pidfd(), target->pid(), device);
    auto placed = place(placement, order);
    if (placed) placement.keep();
    return placed;
  };
  auto guest = stopped->make_thread();
  if (!guest && order.ring_entries != 0) {
    // The ring's kernel thread would be refused just so.
    static_cast<void>(let_it_go());
    return tl::unexpected(guest.error());
  }
  if (!guest) {
    auto taken = place_in(*stopped);
    if (auto gone_on = let_it_go(); !gone_on) return tl::unexpected(gone_on.error());
    return taken;
  }
  // The process's own thread has done its part. What follows happens beside it.
  if (auto gone_on = let_it_go(); !gone_on) return tl::unexpected(gone_on.error());
  auto taken = place_in(*guest);
  const auto ended = guest->release();
  if (auto alive = target->check_alive(); !alive) return tl::unexpected(alive.error());
  if (!ended) return tl::unexpected(ended.error());
  return taken;
}

Result<> close_ours(const AdoptTarget& target, kernel::PtraceInjector& injector, const LetGoOrder& order,
                    std::span<const UniqueFd> descriptors, HelperReport& report) {
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    // Looked at while the thread is stopped: as late as possible, for the other threads run.
    if (!kernel::same_open_file(descriptors[i].get(), target.pid(), order.numbers[i])) {
      report.not_ours |= 1U << i;
      continue;
    }
    const auto closed = injector.call(SYS_close, {static_cast<std::uint64_t>(order.numbers[i])});
    if (!closed) return tl::unexpected(closed.error());
  }
  return {};
}

Result<> let_go(const LetGoOrder& order, std::span<const UniqueFd> descriptors, HelperReport& report) {
  for (const UniqueFd& fd : descriptors) {
    if (kernel::descriptor_target(fd.get()) != kernel::kUserfaultfdTarget)
      return failure(std::errc::bad_file_descriptor, "let go of", "a descriptor that is not a userfaultfd");
  }
  const auto target = AdoptTarget::open(order.id);
  if (!target) return tl::unexpected(target.error());
  std::uint32_t not_ours = 0;
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    if (!kernel::same_open_file(descriptors[i].get(), target->pid(), order.numbers[i])) not_ours |= 1U << i;
  }
  if (not_ours == (1U << descriptors.size()) - 1) {
    report.not_ours = not_ours;
    return {};
  }
  auto injector = target->stop(order.limits);
  if (!injector) return tl::unexpected(injector.error());
  report.thread = injector->thread();
  auto closed = close_ours(*target, *injector, order, descriptors, report);
  const auto stopped = injector->release();
  if (stopped) report.stopped = *stopped;
  if (auto alive = target->check_alive(); !alive) return tl::unexpected(alive.error());
  if (!stopped) return tl::unexpected(stopped.error());
  return closed;
}

bool readable_within(int socket, int limit_ms) {
  pollfd waiting{.fd = socket, .events = POLLIN, .revents = 0};
  return ::poll(&waiting, 1, limit_ms) == 1 && (waiting.revents & POLLIN) != 0;
}

bool acknowledged(int socket) {
  if (!readable_within(socket, kAcknowledgementWaitMs)) return false;
  std::array<std::byte, kMaxHelperMessage> buffer{};
  const auto received = kernel::receive_message(socket, buffer, MSG_DONTWAIT);
  if (!received || received->truncated) return false;
  const auto order = parse_order(std::span(buffer).first(received->length));
  return order && std::holds_alternative<Acknowledgement>(*order);
}

int serve(int socket, const TakeOrder& order) {
  TakeResult result = carry_out(order);
  std::vector<int> descriptors;
  for (const UniqueFd& fd : result.userfaultfds) descriptors.push_back(fd.get());
  const bool sent = kernel::send_message(socket, encode_report(result.report), descriptors).has_value();
  if (result.report.error) return sent ? 0 : 1;
  if (sent && acknowledged(socket)) return 0;
  // Nobody has it: the process gets back what it had.
  LetGoOrder back{.id = order.id, .numbers = {}, .limits = order.limits};
  for (const int number : result.report.userfaultfd_numbers) {
    if (number >= 0) back.numbers.push_back(number);
  }
  if (!back.numbers.empty()) static_cast<void>(carry_out(back, result.userfaultfds));
  return 1;
}

int serve(int socket, const LetGoOrder& order, std::span<const UniqueFd> descriptors) {
  HelperReport report;
  if (descriptors.size() == order.numbers.size()) {
    report = carry_out(order, descriptors);
  } else {
    report.error = failure(std::errc::bad_message, "read", "order to let go: descriptors are missing").value();
  }
  return kernel::send_message(socket, encode_report(report), {}) ? 0 : 1;
}

}  // namespace

TakeResult carry_out(const TakeOrder& order) {
  TakeResult result;
  auto taken = take(order, result.report);
  if (!taken) {
    result.report.error = taken.error();
    result.report.ring_geometry.reset();
    return result;
  }
  for (std::size_t i = 0; i < taken->userfaultfds.size(); ++i) {
    result.report.userfaultfd_numbers.at(i) = taken->userfaultfds[i].number;
    result.userfaultfds.push_back(std::move(taken->userfaultfds[i].fd));
  }
  result.report.ring_number = taken->ring.get();
  result.ring = std::move(taken->ring);
  return result;
}

HelperReport carry_out(const LetGoOrder& order, std::span<const UniqueFd> descriptors) {
  HelperReport report;
  if (auto done = let_go(order, descriptors, report); !done) report.error = done.error();
  return report;
}

int serve_one_order(int socket) {
  if (!readable_within(socket, kOrderWaitMs)) return 1;
  std::array<std::byte, kMaxHelperMessage> buffer{};
  const auto received = kernel::receive_message(socket, buffer, MSG_DONTWAIT);
  if (!received) return 1;
  const auto order = parse_order(std::span(buffer).first(received->length));
  if (!order || received->truncated) {
    HelperReport report;
    report.error = failure(std::errc::bad_message, "read", "order to tidepool-adopt").value();
    static_cast<void>(kernel::send_message(socket, encode_report(report), {}));
    return 1;
  }
  if (const auto* take_order = std::get_if<TakeOrder>(&*order)) return serve(socket, *take_order);
  if (const auto* let_go_order = std::get_if<LetGoOrder>(&*order))
    return serve(socket, *let_go_order, received->descriptors);
  return 1;
}

}  // namespace tidepool::daemon
