#include "daemon/vm/memory_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

namespace tidepool::daemon {
namespace {

constexpr std::uint64_t kChunk = kHugePageSize;
// The address space changes while an event waits to be read; it is read at once, so this is a matter of moments.
constexpr int kMaxRetries = 10000;
constexpr auto kRetryPause = std::chrono::microseconds(100);
constexpr std::size_t kMaxDiscards = 65536;

bool is_zero(const std::byte* page) {
  return page[0] == std::byte{0} && std::memcmp(page, page + 1, kPageSize - 1) == 0;
}

// Fills one process's memory, and takes notice of what the process does to it meanwhile.
class Loader {
 public:
  Loader(const kernel::Userfaultfd& userfaultfd, int file, const std::string& path)
      : userfaultfd_(userfaultfd), file_(file), path_(path), buffer_(kChunk) {}

  Result<> load(const HandoffRegion& region) {
    for (std::uint64_t done = 0; done < region.addresses.size();) {
      const std::uint64_t length = std::min(kChunk, region.addresses.size() - done);
      // A hole in the file is memory that was never touched.
      const off_t from = static_cast<off_t>(region.offset + done);
      const off_t data = ::lseek(file_, from, SEEK_DATA);
      if (data < 0 && errno == ENXIO) return {};
      if (data >= from + static_cast<off_t>(length)) {
        done += length;
        continue;
      }
      if (auto read = fill_buffer(from, length); !read) return read;
      if (auto installed = install(region.addresses.start + done, length); !installed) return installed;
      done += length;
    }
    return {};
  }
  Bytes loaded() const { return loaded_; }

 private:
  Result<> fill_buffer(off_t from, std::uint64_t length) {
    for (std::uint64_t got = 0; got < length;) {
      const ssize_t count = ::pread(file_, buffer_.data() + got, length - got, from + static_cast<off_t>(got));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return errno_failure("read", path_);
      if (count == 0) return failure(std::errc::no_message_available, "read", path_, "it became shorter meanwhile");
      got += static_cast<std::uint64_t>(count);
    }
    return {};
  }

  // Runs of pages that hold something and that the process has not given back.
  Result<> install(std::uint64_t address, std::uint64_t length) {
    const auto wanted = [&](std::uint64_t at) { return !is_zero(buffer_.data() + at) && !discarded(address + at); };
    for (std::uint64_t at = 0; at < length;) {
      if (!wanted(at)) {
        at += kPageSize;
        continue;
      }
      std::uint64_t end = at + kPageSize;
      while (end < length && wanted(end)) end += kPageSize;
      const auto put = install_run(address + at, buffer_.data() + at, end - at);
      if (!put) return Failure{put.error()};
      at += *put;
    }
    return {};
  }

  // How far it came: to the end of the run, or to where the process changed something and one must look again.
  Result<std::uint64_t> install_run(std::uint64_t address, const std::byte* source, std::uint64_t length) {
    for (int retries = 0; retries < kMaxRetries; ++retries) {
      const kernel::InstallOutcome outcome = userfaultfd_.copy(address, source, length, false);
      loaded_ += Bytes{outcome.done};
      if (outcome.error == 0) return length;
      if (outcome.error == EEXIST) return kPageSize;  // there already
      if (outcome.error != EAGAIN)
        return failure_from(outcome.error, "put a page of " + path_ + " into", "memory that was handed off");
      const auto changed = read_events();
      if (!changed) return Failure{changed.error()};
      if (outcome.done > 0 || *changed) return outcome.done;
      std::this_thread::sleep_for(kRetryPause);
    }
    return failure(std::errc::timed_out, "put a page of " + path_ + " into", "memory that was handed off");
  }

  Result<bool> read_events() {
    std::array<uffd_msg, 16> events;
    const int count = userfaultfd_.read_events(events);
    bool changed = false;
    bool moved = count < 0;
    for (int i = 0; i < count; ++i) {
      const uffd_msg& event = events[static_cast<std::size_t>(i)];
      if (event.event == UFFD_EVENT_PAGEFAULT) continue;  // woken when its page is there, or at the end
      if (event.event == UFFD_EVENT_REMOVE && discards_.size() < kMaxDiscards) {
        discards_.push_back({event.arg.remove.start, event.arg.remove.end});
        changed = true;
        continue;
      }
      if (event.event == UFFD_EVENT_FORK) const UniqueFd childs{static_cast<int>(event.arg.fork.ufd)};
      moved = true;
    }
    if (moved) {
      return failure(std::errc::operation_canceled, "load", path_,
                     "the process ended, forked, or moved memory before its memory was loaded");
    }
    return changed;
  }

  bool discarded(std::uint64_t address) const {
    return std::ranges::any_of(discards_, [&](const AddressRange& range) { return range.contains(address); });
  }

  const kernel::Userfaultfd& userfaultfd_;
  const int file_;
  const std::string& path_;
  std::vector<std::byte> buffer_;
  std::vector<AddressRange> discards_;
  Bytes loaded_;
};

}  // namespace

Result<MemoryImage> MemoryImage::open(const std::string& path, const kernel::SocketPeer& reader) {
  // Non-blocking: a pipe at that path must not stop us.
  UniqueFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!file.valid()) return errno_failure("open memory file", path);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return errno_failure("stat", path);
  if (!S_ISREG(info.st_mode)) return failure(std::errc::invalid_argument, "use memory file", path, "it is not a file");
  const bool of_user = reader.uid == 0 || info.st_uid == reader.uid;
  const bool of_group = info.st_gid == reader.gid && (info.st_mode & S_IRGRP) != 0;
  if (!of_user && !of_group) {
    return failure(std::errc::permission_denied, "use memory file", path,
                   "it must belong to the VM's user (uid " + std::to_string(reader.uid) + "), or to its group (gid " +
                       std::to_string(reader.gid) + ") and be readable to it");
  }
  return MemoryImage{path, std::move(file), Bytes{static_cast<std::uint64_t>(info.st_size)}};
}

Result<> MemoryImage::check(std::span<const HandoffRegion> regions) const {
  std::vector<AddressRange> places;
  for (const HandoffRegion& region : regions)
    places.push_back({region.offset, region.offset + region.addresses.size()});
  std::ranges::sort(places);
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (places[i].end > size_.value) {
      return failure(std::errc::no_message_available, "load", path_,
                     "it has " + std::to_string(size_.value) + " bytes, and the VM's memory ends at " +
                         std::to_string(places[i].end) + ": is it this snapshot's?");
    }
    if (i > 0 && places[i].overlaps(places[i - 1]))
      return failure(std::errc::invalid_argument, "load", path_, "two regions have the same place in it");
  }
  return {};
}

Result<Bytes> MemoryImage::load(const kernel::Userfaultfd& userfaultfd, std::span<const HandoffRegion> regions) const {
  if (auto fits = check(regions); !fits) return Failure{fits.error()};
  Loader loader(userfaultfd, file_.get(), path_);
  for (const HandoffRegion& region : regions) {
    if (auto loaded = loader.load(region); !loaded) return Failure{loaded.error()};
  }
  // Events of faults on pages that stay zero were read, and are asked for again.
  for (const HandoffRegion& region : regions) {
    if (const int error = userfaultfd.wake(region.addresses); error != 0)
      return failure_from(error, "wake those who wait for", path_);
  }
  return loader.loaded();
}

}  // namespace tidepool::daemon
