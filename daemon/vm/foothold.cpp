#include "daemon/vm/foothold.h"

#include <algorithm>
#include <utility>

#include "daemon/vm/adopt_helper_process.h"
#include "daemon/vm/adopt_helper_protocol.h"
#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::daemon {
namespace {

// The descriptor is of the process that was meant: it had that start time before the descriptor was opened and after.
Result<UniqueFd> open_identified(const ProcessIdentity& id) {
  const auto process = kernel::Process::open(kernel::KernelRoots{}, id.pid);
  if (!process) return tl::unexpected(process.error());
  if (process->id() != id) {
    return failure(
        std::errc::no_such_process, "adopt",
        "process " + std::to_string(id.pid) + ": the one that was meant has ended, and its pid was given to another");
  }
  auto pidfd = kernel::open_pidfd(id.pid);
  // A thread's id names a directory of /proc, but no process.
  if (!pidfd && pidfd.error().code != std::errc::no_such_process) {
    return failure(std::errc::invalid_argument, "adopt",
                   "process " + std::to_string(id.pid) + ": it is not a process but a thread of one",
                   "give the pid of its process");
  }
  if (!pidfd) return pidfd;
  if (auto alive = process->check_alive(); !alive) return tl::unexpected(alive.error());
  return pidfd;
}

Result<HelperProcess::Answer> order_and_wait(const HelperProcess& helper, const HelperOrder& order,
                                             std::span<const int> descriptors) {
  // When the pipe is broken the helper has ended; what it said before that, if anything, is the better error.
  const auto sent = helper.send(order, descriptors);
  if (!sent && sent.error().code != std::errc::broken_pipe) return tl::unexpected(sent.error());
  auto answer = helper.receive();
  if (!answer) return answer;
  if (answer && answer->report.error) return tl::unexpected(*answer->report.error);
  return answer;
}

// Whether exactly what was asked for came.
Result<> check_answer(const HelperProcess::Answer& answer, const FootholdRequest& request) {
  const std::size_t userfaultfds = request.userfaultfds;
  bool right = answer.descriptors.size() == userfaultfds &&
               answer.report.ring_geometry.has_value() == (request.ring_entries != 0);
  for (std::size_t i = 0; right && i < userfaultfds; ++i) {
    right = answer.report.userfaultfd_numbers.at(i) >= 0 &&
            kernel::descriptor_target(answer.descriptors[i].get()) == kernel::kUserfaultfdTarget;
  }
  if (!right) return failure(std::errc::bad_message, "read", "report of tidepool-adopt: not what was asked for");
  return {};
}

// The helper may speak of a thread; people know the process.
Failure naming(const ProcessIdentity& id, Error error) {
  const std::string pid = std::to_string(id.pid);
  if (error.subject.find(pid) == std::string::npos) error.subject = "process " + pid + ": " + error.subject;
  return Failure{std::move(error)};
}

}  // namespace

Result<Foothold> take_foothold(const FootholdRequest& request) {
  Foothold foothold;
  foothold.id = request.id;
  auto pidfd = open_identified(request.id);
  if (!pidfd) return tl::unexpected(pidfd.error());
  foothold.pidfd = std::move(*pidfd);
  const auto helper = HelperProcess::start(request.helper.program, request.helper.deadline);
  if (!helper) return tl::unexpected(helper.error());
  const TakeOrder order{.id = request.id,
                        .userfaultfds = request.userfaultfds,
                        .ring_entries = request.ring_entries,
                        .limits = helper_limits(request.helper.deadline)};
  auto answer = order_and_wait(*helper, order, {});
  if (!answer) return naming(request.id, answer.error());
  // From here on an error ends the helper's wait for the acknowledgement, and with it the foothold.
  if (auto right = check_answer(*answer, request); !right) return tl::unexpected(right.error());
  if (request.userfaultfds > 0) {
    foothold.userfaultfd = std::move(answer->descriptors[0]);
    foothold.userfaultfd_number = answer->report.userfaultfd_numbers[0];
  }
  if (request.userfaultfds > 1) {
    foothold.second_userfaultfd = std::move(answer->descriptors[1]);
    foothold.second_userfaultfd_number = answer->report.userfaultfd_numbers[1];
  }
  if (request.ring_entries != 0) {
    auto fd = helper->take(answer->report.ring_number);
    if (!fd) return tl::unexpected(fd.error());
    auto ring = kernel::DropRing::attach(std::move(*fd), *answer->report.ring_geometry);
    if (!ring) return tl::unexpected(ring.error());
    foothold.ring.emplace(std::move(*ring));
  }
  foothold.stopped_thread = answer->report.thread;
  foothold.stopped = answer->report.stopped;
  if (!kernel::pidfd_alive(foothold.pidfd.get()))
    return failure(std::errc::no_such_process, "adopt",
                   "process " + std::to_string(request.id.pid) + ": it ended meanwhile");
  if (auto acknowledged = helper->send(Acknowledgement{}, {}); !acknowledged)
    return tl::unexpected(acknowledged.error());
  return foothold;
}

Result<LetGoOutcome> let_go(const LetGoRequest& request) {
  if (request.descriptors.empty()) return LetGoOutcome{};
  if (request.descriptors.size() > kMaxPlacedDescriptors)
    return failure(std::errc::invalid_argument, "let go of", "process " + std::to_string(request.id.pid));
  const auto pidfd = open_identified(request.id);
  if (!pidfd) return tl::unexpected(pidfd.error());
  const auto helper = HelperProcess::start(request.helper.program, request.helper.deadline);
  if (!helper) return tl::unexpected(helper.error());
  LetGoOrder order{.id = request.id, .numbers = {}, .limits = helper_limits(request.helper.deadline)};
  std::vector<int> descriptors;
  for (const PlacedDescriptor& placed : request.descriptors) {
    order.numbers.push_back(placed.number);
    descriptors.push_back(placed.fd);
  }
  const auto answer = order_and_wait(*helper, order, descriptors);
  if (!answer) return tl::unexpected(answer.error());
  LetGoOutcome outcome{.not_ours = {}, .stopped = answer->report.stopped};
  for (std::size_t i = 0; i < order.numbers.size(); ++i) {
    if ((answer->report.not_ours >> i & 1U) != 0) outcome.not_ours.push_back(order.numbers[i]);
  }
  return outcome;
}

}  // namespace tidepool::daemon
