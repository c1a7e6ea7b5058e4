#include "daemon/vm/adopt_helper_target.h"

#include <unistd.h>

#include <string>
#include <utility>

#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/syscall_site.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kMaxThreadsTried = 8;

std::string name_of(pid_t pid) {
  return "process " + std::to_string(pid);
}

Failure refuse(std::errc code, pid_t pid, const std::string& why, std::string remedy = {}) {
  return failure(code, "adopt", name_of(pid) + ": " + why, std::move(remedy));
}

Result<> check_kind(const kernel::Process& process) {
  const pid_t pid = process.id().pid;
  const auto stat = process.stat();
  if (!stat) return tl::unexpected(stat.error());
  if (stat->is_kernel_thread()) return refuse(std::errc::invalid_argument, pid, "it is a kernel thread");
  if (stat->is_zombie())
    return refuse(std::errc::no_such_process, pid, "it has ended and waits for its parent (zombie)");
  const auto status = process.status();
  if (!status) return tl::unexpected(status.error());
  if (status->tracer != 0) {
    return refuse(std::errc::device_or_resource_busy, pid, "it is traced already",
                  "end the debugger or tracer, " + name_of(status->tracer));
  }
  const auto elf_class = process.elf_class();
  if (!elf_class) return tl::unexpected(elf_class.error());
  if (*elf_class == kernel::ElfClass::bits32) return refuse(std::errc::not_supported, pid, "it is a 32-bit program");
  return {};
}

}  // namespace

Result<AdoptTarget> AdoptTarget::open(const kernel::ProcessId& id) {
  if (id.pid == ::getpid() || id.pid == ::getppid())
    return refuse(std::errc::invalid_argument, id.pid, "it is Tidepool itself, which would wait for itself");
  auto process = kernel::Process::open(kernel::KernelRoots{}, id.pid);
  if (!process) return tl::unexpected(process.error());
  if (process->id() != id) {
    return refuse(std::errc::no_such_process, id.pid,
                  "the process that was meant has ended, and its pid was given to another");
  }
  auto pidfd = kernel::open_pidfd(id.pid);
  if (!pidfd) {
    if (pidfd.error().code != std::errc::no_such_process)
      return refuse(std::errc::invalid_argument, id.pid, "it is not a process but a thread of one",
                    "give the pid of its process");
    return tl::unexpected(pidfd.error());
  }
  // The held directory still shows the process that was meant, so the descriptor opened in between is of it too.
  if (auto alive = process->check_alive(); !alive) return tl::unexpected(alive.error());
  if (auto fit = check_kind(*process); !fit) return tl::unexpected(fit.error());
  const auto instruction = kernel::find_syscall_instruction(*process);
  if (!instruction) return tl::unexpected(instruction.error());
  return AdoptTarget{std::move(*process), std::move(*pidfd), *instruction};
}

Result<> AdoptTarget::check_alive() const {
  if (!kernel::pidfd_alive(pidfd())) return refuse(std::errc::no_such_process, pid(), "it ended meanwhile");
  return process_.check_alive();
}

Result<kernel::PtraceInjector> AdoptTarget::stop(const HelperLimits& limits) const {
  const kernel::InjectionLimits injection{.stop = limits.stop, .call = limits.call};
  Failure last = refuse(std::errc::device_or_resource_busy, pid(), "its threads end faster than they can be stopped");
  for (std::size_t tried = 0; tried < kMaxThreadsTried;) {
    const auto threads = kernel::threads_fit_to_stop(process_);
    if (!threads) {
      if (auto alive = check_alive(); !alive) return tl::unexpected(alive.error());
      return tl::unexpected(threads.error());
    }
    for (std::size_t i = 0; i < threads->size() && tried < kMaxThreadsTried; ++i, ++tried) {
      auto injector = kernel::PtraceInjector::stop(process_, threads->at(i), instruction_, injection);
      if (injector) {
        if (auto alive = check_alive(); !alive) return tl::unexpected(alive.error());
        return injector;
      }
      if (injector.error().code == std::errc::timed_out && injector.error().remedy.empty())
        injector.error().remedy = "it may be frozen by its control group, or hang in the kernel";
      if (injector.error().code != std::errc::no_such_process) return injector;
      last = Failure{injector.error()};
      if (auto alive = check_alive(); !alive) return tl::unexpected(alive.error());
    }
  }
  return last;
}

}  // namespace tidepool::daemon
