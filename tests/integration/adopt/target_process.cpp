#include "tests/integration/adopt/target_process.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <thread>

#include "kmod-interfaces/process.h"

namespace tidepool::adopt_test {

bool await(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

std::map<int, std::string> descriptors_of(pid_t pid) {
  std::map<int, std::string> found;
  std::error_code error;
  const std::filesystem::path folder = "/proc/" + std::to_string(pid) + "/fd";
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(it->path(), gone);
    if (!gone) found[std::atoi(it->path().filename().c_str())] = target.string();
  }
  return found;
}

std::string state_of(pid_t pid) {
  const auto process = kernel::Process::open(kernel::KernelRoots{}, pid);
  if (!process) return {};
  const auto stat = process->stat();
  return stat ? std::string(1, stat->state) : std::string{};
}

TargetProcess::TargetProcess(std::vector<std::string> arguments) {
  start(TIDEPOOL_BINARY_DIR "/tests/adopt_target", std::move(arguments));
  started_ = await([&] { return report().ready.load() != 0 || !alive(); }) && alive();
}

TargetProcess::TargetProcess(const std::string& program, std::vector<std::string> arguments) {
  start(program, std::move(arguments));
  started_ = true;
}

void TargetProcess::start(const std::string& program, std::vector<std::string> arguments) {
  const UniqueFd memory{::memfd_create("report", MFD_CLOEXEC)};
  if (::ftruncate(memory.get(), 4096) != 0) std::abort();
  auto page = Mapping::of_file(memory.get(), Bytes{4096}, Bytes{}, PROT_READ | PROT_WRITE, MAP_SHARED);
  if (!page) std::abort();
  page_ = std::move(*page);
  new (page_.data()) Report;
  report().sender = ::getpid();
  arguments.insert(arguments.begin(), program);
  std::vector<char*> vector;
  for (std::string& argument : arguments) vector.push_back(argument.data());
  vector.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(memory.get(), kReportFd);
    ::execv(program.c_str(), vector.data());
    ::_exit(126);
  }
}

TargetProcess::~TargetProcess() {
  kill_and_reap();
  if (const int queue = report().message_queue; queue >= 0) ::msgctl(queue, IPC_RMID, nullptr);
  if (const int set = report().semaphores; set >= 0) ::semctl(set, 0, IPC_RMID);
}

daemon::ProcessIdentity TargetProcess::id() const {
  const auto process = kernel::Process::open(kernel::KernelRoots{}, pid_);
  return process ? process->id() : daemon::ProcessIdentity{};
}

bool TargetProcess::alive() const {
  const std::string state = state_of(pid_);
  return pid_ > 0 && !state.empty() && state != "Z" && state != "X";
}

void TargetProcess::signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

void TargetProcess::kill_and_reap() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = 0;
}

std::uint32_t TargetProcess::ask_for_page(std::uint64_t page) const {
  report().question = page + 1;
  const bool answered = await([&] { return report().answered.load() == page + 1; });
  const std::uint32_t sum = answered ? report().answer.load() : ~0U;
  report().question = 0;
  report().answered = 0;
  return sum;
}

daemon::FootholdRequest request_for(const daemon::ProcessIdentity& id) {
  daemon::FootholdRequest request;
  request.id = id;
  request.helper.program = TIDEPOOL_BINARY_DIR "/bin/tidepool-adopt";
  request.helper.deadline = std::chrono::seconds(120);
  return request;
}

daemon::LetGoRequest return_of(const daemon::Foothold& foothold) {
  daemon::LetGoRequest request;
  request.id = foothold.id;
  if (foothold.userfaultfd.valid())
    request.descriptors.push_back({.number = foothold.userfaultfd_number, .fd = foothold.userfaultfd.get()});
  if (foothold.second_userfaultfd.valid()) {
    request.descriptors.push_back(
        {.number = foothold.second_userfaultfd_number, .fd = foothold.second_userfaultfd.get()});
  }
  request.helper = request_for(foothold.id).helper;
  return request;
}

}  // namespace tidepool::adopt_test
