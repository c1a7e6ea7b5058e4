#include "daemon/agent/access_recorder.h"

#include <fcntl.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <optional>
#include <thread>

#include "base/quantity_text.h"
#include "service/log.h"
#include "telemetry/trace/trace_writer.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kMostRecordings = 8;
constexpr std::size_t kMostSamplesWaiting = 1 << 18;
constexpr auto kProgressPeriod = std::chrono::milliseconds(500);

static_assert(kSmallestRecording == telemetry::kSmallestTrace);

std::vector<telemetry::TracedObject> traced_objects(const ManagedVm& vm) {
  std::vector<telemetry::TracedObject> objects;
  if (vm.workload) {
    vm.workload->for_each([&](const WorkloadProcess& process) {
      objects.push_back({static_cast<std::uint32_t>(objects.size()), process.regions.pages()});
    });
    return objects;
  }
  const PagedVm& memory = *vm.memory;
  for (std::size_t i = 0; i < memory.objects.size(); ++i)
    objects.push_back({static_cast<std::uint32_t>(i), memory.objects[i]->map->pages()});
  return objects;
}

Result<UniqueFd> create_trace(const std::string& path) {
  // The agent is privileged: it neither follows a link that somebody put there nor writes into what exists.
  UniqueFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)};
  if (file.valid()) return file;
  switch (errno) {
    case EEXIST:
      return failure(std::errc::file_exists, "create", path, "a recording never replaces a file: name another one");
    case ENOENT:
    case ENOTDIR:
      return failure(std::errc::invalid_argument, "create", path, "its folder must exist, for the agent as well");
    case EROFS:
    case EACCES:
      return failure(std::errc::operation_not_permitted, "create", path,
                     "the agent may not write there; as a service it can in /var/log/tidepool");
    default:
      return errno_failure("create", path);
  }
}

}  // namespace

struct AccessRecorder::Recording {
  Recording(telemetry::TraceWriter w, Operations::Handle h) : writer(std::move(w)), handle(std::move(h)) {}

  std::string vm;
  VmId id;
  RecordRequest request;
  MonoTime began{};
  // Of its own thread.
  std::optional<telemetry::TraceWriter> writer;  // until it has ended
  Operations::Handle handle;
  std::thread thread;
  std::atomic<bool> ended{false};

  std::mutex mutex;
  std::condition_variable wake;
  std::deque<telemetry::TraceRound> waiting;
  std::size_t samples_waiting = 0;
  std::uint64_t lost = 0;
  bool ending = false;

  void end() {
    {
      const std::lock_guard lock(mutex);
      ending = true;
    }
    wake.notify_one();
  }
};

AccessRecorder::~AccessRecorder() {
  end_all();
}

Result<Operation> AccessRecorder::start(Operations& operations, const ManagedVm& vm, const RecordRequest& request) {
  const std::lock_guard starting(start_mutex_);
  forget_ended();
  {
    const std::lock_guard lock(mutex_);
    if (std::ranges::any_of(recordings_, [&](const auto& each) { return each->id == vm.number(); }))
      return failure(std::errc::device_or_resource_busy, "record", vm.name,
                     "it is being recorded already: tidectl vm record VM --stop ends that");
    if (recordings_.size() >= kMostRecordings)
      return failure(std::errc::resource_unavailable_try_again, "record", vm.name,
                     std::to_string(kMostRecordings) + " VMs are being recorded already; wait for one, or stop it");
  }
  auto file = create_trace(request.file);
  if (!file) return Failure{file.error()};
  telemetry::TraceDescription description;
  description.vm = vm.name;
  description.recorded = std::chrono::system_clock::now();
  description.start = context_.clock.now();
  description.objects = traced_objects(vm);
  auto writer = telemetry::TraceWriter::begin(std::move(*file), request.file, description, request.max_size);
  auto operation = writer ? operations.begin(OperationKind::kRecord, vm.name, "recording")
                          : Result<Operation>(Failure{writer.error()});
  if (!operation) {
    ::unlink(request.file.c_str());  // ours, and of no use to anybody
    return operation;
  }
  auto recording = std::make_shared<Recording>(std::move(*writer), Operations::Handle(operations, operation->id));
  recording->vm = vm.name;
  recording->id = vm.number();
  recording->request = request;
  recording->began = description.start;
  // Whoever forgets the recording joins its thread first.
  recording->thread = std::thread([this, &each = *recording] { run(each); });
  ::pthread_setname_np(recording->thread.native_handle(), "recording");
  const std::lock_guard lock(mutex_);
  recordings_.push_back(std::move(recording));
  return operation;
}

Result<> AccessRecorder::end(const ManagedVm& vm) {
  const std::lock_guard lock(mutex_);
  for (const auto& each : recordings_) {
    if (each->id != vm.number() || each->ended) continue;
    each->end();
    return {};
  }
  return failure(std::errc::no_such_file_or_directory, "stop recording", vm.name, "it is not being recorded");
}

void AccessRecorder::end_all() {
  const std::lock_guard starting(start_mutex_);
  std::vector<std::shared_ptr<Recording>> all;
  {
    const std::lock_guard lock(mutex_);
    all.swap(recordings_);
  }
  for (const auto& each : all) each->end();
  for (const auto& each : all) each->thread.join();
}

void AccessRecorder::forget_ended() {
  const std::lock_guard lock(mutex_);
  std::erase_if(recordings_, [](const auto& each) {
    if (!each->ended) return false;
    each->thread.join();
    return true;
  });
}

void AccessRecorder::take(MonoTime now, std::span<const policy::AccessSample> samples) {
  const std::lock_guard lock(mutex_);
  for (const auto& each : recordings_) {
    if (each->ended) continue;
    telemetry::TraceRound round{now, {}};
    for (const policy::AccessSample& sample : samples) {
      if (sample.object.vm == each->id) round.samples.push_back(sample);
    }
    {
      const std::lock_guard own(each->mutex);
      if (each->samples_waiting + round.samples.size() > kMostSamplesWaiting) {
        each->lost += round.samples.size();
        continue;
      }
      each->samples_waiting += round.samples.size();
      each->waiting.push_back(std::move(round));
    }
    each->wake.notify_one();
  }
}

// False: the file is full.
Result<bool> AccessRecorder::write_waiting(Recording& recording) {
  std::deque<telemetry::TraceRound> rounds;
  {
    const std::lock_guard lock(recording.mutex);
    rounds.swap(recording.waiting);
    recording.samples_waiting = 0;
  }
  for (const telemetry::TraceRound& round : rounds) {
    auto room = recording.writer->round(round.at, round.samples);
    if (!room || !*room) return room;
  }
  return true;
}

void AccessRecorder::tell_progress(Recording& recording) const {
  const double passed = std::chrono::duration<double>(context_.clock.now() - recording.began).count();
  const double wanted = std::chrono::duration<double>(recording.request.duration).count();
  recording.handle.update([&](Operation& operation) {
    operation.step = std::to_string(recording.writer->totals().samples) + " samples in " + recording.request.file;
    operation.done = recording.writer->written();
    operation.total = recording.request.max_size;
    operation.progress = std::clamp(passed / wanted, 0.0, 1.0);
  });
}

void AccessRecorder::run(Recording& recording) {
  const MonoTime deadline = recording.began + recording.request.duration;
  Result<> result;
  std::string why;
  while (result && why.empty()) {
    {
      std::unique_lock lock(recording.mutex);
      const Nanoseconds left = std::max(deadline - context_.clock.now(), Nanoseconds{0});
      recording.wake.wait_for(lock, std::min(left, Nanoseconds{kProgressPeriod}),
                              [&] { return recording.ending || !recording.waiting.empty(); });
      if (recording.ending) why = "it was ended";
    }
    const auto vm = context_.vms.find(recording.id);
    if (vm == nullptr || vm->dead()) {
      why = "the VM is gone";
    } else if (context_.clock.now() >= deadline) {
      why = "the time is over";
    } else if (auto described = recording.writer->describe(traced_objects(*vm)); !described) {
      result = described;
    }
    if (result) {
      const auto room = write_waiting(recording);
      if (!room) result = Failure{room.error()};
      if (room && !*room) why = "the file is as large as it may become";
    }
    tell_progress(recording);
  }
  std::uint64_t lost = 0;
  {
    const std::lock_guard lock(recording.mutex);
    lost = recording.lost;
  }
  if (result) result = recording.writer->finish(lost);
  tell_progress(recording);
  const telemetry::TraceTotals& totals = recording.writer->totals();
  std::string text = result ? why : result.error().message();
  text += "; " + std::to_string(totals.samples) + " samples";
  if (totals.lost != 0) text += ", " + std::to_string(totals.lost) + " lost";
  text += ", " + short_text(recording.writer->written()) + " in " + recording.request.file;
  spdlog::info("msg=\"recording ended\" vm={} how={}", recording.vm, in_quotes(text));
  context_.event(recording.vm, "recording", std::move(text));
  recording.writer.reset();  // the account of it may be kept for long, the file is not
  recording.ended = true;
  recording.handle.end(result);
}

}  // namespace tidepool::daemon
