#include "pool/client/slice_files.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "pool/protocol/slice_file.h"

namespace tidepool::pool {
namespace {

bool is_memory(int fd) {
  struct stat status {};
  struct statfs system {};
  return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && ::fstatfs(fd, &system) == 0 &&
         system.f_type == TMPFS_MAGIC;
}

bool read_whole(int fd, void* to, std::size_t size, std::uint64_t offset) {
  return ::pread(fd, to, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

// The mark before the page: what was there when the page was changed later does not fit the page, and does not open.
bool read_page(int fd, std::uint32_t slots, LinkItem& item) {
  protocol::SlotMark mark;
  if (item.slot >= slots || !read_whole(fd, &mark, sizeof mark, protocol::mark_offset(slots, item.slot)) ||
      mark.stored != 1 || mark.length > protocol::kSlotBytes ||
      !read_whole(fd, item.payload, mark.length, protocol::page_offset(item.slot)))
    return false;
  item.version = mark.version;
  item.length = mark.length;
  item.tag = mark.tag;
  item.status = protocol::ErrorCode::kOk;
  return true;
}

}  // namespace

bool SliceFiles::add(protocol::SliceId slice, std::uint32_t slots, UniqueFd file) {
  if (!file.valid() || !is_memory(file.get())) return false;
  auto added = std::make_shared<File>();
  added->fd = std::move(file);
  added->slots = slots;
  const std::lock_guard lock(mutex_);
  files_.insert_or_assign(slice, std::move(added));
  return true;
}

void SliceFiles::remove(protocol::SliceId slice) {
  const std::lock_guard lock(mutex_);
  files_.erase(slice);
}

void SliceFiles::clear() {
  const std::lock_guard lock(mutex_);
  files_.clear();
}

bool SliceFiles::read(LinkRequest& request) const {
  std::shared_ptr<const File> file;
  {
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(request.slice);
    if (found == files_.end()) return false;
    file = found->second;
  }
  return std::ranges::all_of(request.items,
                             [&](LinkItem& item) { return read_page(file->fd.get(), file->slots, item); });
}

}  // namespace tidepool::pool
