#include "bench/telemetry/managed_load.h"

#include <fcntl.h>

#include <array>
#include <cstdio>
#include <future>
#include <stdexcept>
#include <thread>
#include <utility>

#include "kmod-interfaces/process.h"
#include "pool/store/mapped_store.h"

namespace tidepool::bench {
namespace {

constexpr auto kPatience = std::chrono::seconds(120);

template <class T>
T value_of(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  return std::move(*result);
}

void expect(const Result<>& result) {
  if (!result) throw std::runtime_error(result.error().message());
}

UniqueFd backing_of(pid_t pid, AddressRange range) {
  std::array<char, 96> path{};
  std::snprintf(path.data(), path.size(), "/proc/%d/map_files/%lx-%lx", pid, range.start, range.end);
  UniqueFd file{::open(path.data(), O_RDWR | O_CLOEXEC)};
  if (!file.valid()) throw std::runtime_error(std::string("cannot open ") + path.data());
  return file;
}

}  // namespace

ManagedLoad::ManagedLoad(test::WatchedLoad& load, bool shared) {
  if (load.range().start % kHugePageSize != 0) throw std::runtime_error("the load's memory begins within a region");
  pool::MappedStoreOptions options;
  options.capacity = Bytes{load.range().size() * 2 + (64ull << 20)};
  options.most_unreturned = options.capacity;
  store_ = value_of(pool::create_mapped_store(options));
  daemon::PagerConfig config;
  config.demoter.grace = Nanoseconds{0};
  pager_ = value_of(daemon::Pager::start(config, {}, clock_));

  daemon::FootholdRequest request;
  request.id = load.memory().front()->spaces.front().process;
  request.helper.program = std::string(TIDEPOOL_BINARY_DIR) + "/bin/tidepool-adopt";
  auto foothold = value_of(daemon::take_foothold(request));
  vm_ = std::make_shared<daemon::ManagedVm>();
  vm_->name = "load";
  vm_->id = request.id;
  daemon::VmSpec spec;
  spec.name = vm_->name;
  spec.store = pool::unowned(*store_);
  spec.movable = shared;
  spec.objects.push_back({shared, shared ? backing_of(load.pid(), load.range()) : UniqueFd{}});
  daemon::SpaceSpec space;
  space.userfaultfd = kernel::Userfaultfd{std::move(foothold.userfaultfd)};
  space.pid = load.pid();
  space.pidfd = std::move(foothold.pidfd);
  space.mappings.push_back({load.range(), 0, 0});
  spec.spaces.push_back(std::move(space));
  vm_->memory = value_of(pager_->prepare(std::move(spec)));
  expect(pager_->activate(vm_->memory));
  vm_->footholds.push_back({request.id, foothold.userfaultfd_number, vm_->memory->spaces().front()});
  load.set_memory(tracked_.of(*pager_, {vm_}));
}

ManagedLoad::~ManagedLoad() {
  if (vm_ == nullptr || vm_->memory == nullptr) return;
  std::promise<void> released;
  pager_->release(vm_->memory, [&](const Result<>&) { released.set_value(); });
  released.get_future().wait();
  pager_->stop();
}

void ManagedLoad::demote_all() {
  daemon::MemoryObject& object = *vm_->memory->objects[0];
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (std::uint64_t region = 0; region < object.map->regions(); ++region) {
    while (!pager_->demote(vm_->memory, {&object, region})) {
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("demotion is refused");
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
  // What is touched meanwhile comes home at once: done is when nothing is under way any more.
  while (pager_->demotions_queued() > 0 || vm_->memory->demotions_in_flight > 0) {
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("demotion does not finish");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace tidepool::bench
