#include "kmod-interfaces/soft_dirty.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

constexpr std::string_view kSoftDirtyBits = "4";  // CLEAR_REFS_SOFT_DIRTY

class ProcSoftDirty final : public SoftDirtyProcess {
 public:
  ProcSoftDirty(Pagemap pagemap, UniqueFd clear_refs)
      : pagemap_(std::move(pagemap)), clear_refs_(std::move(clear_refs)) {}

  Result<std::size_t> entries(std::uint64_t address, std::span<PagemapEntry> out) const override {
    return pagemap_.entries(address, out);
  }
  Result<> clear() override {
    if (::pwrite(clear_refs_.get(), kSoftDirtyBits.data(), kSoftDirtyBits.size(), 0) < 0)
      return errno_failure("clear soft-dirty bits of", "a process");
    return {};
  }

 private:
  Pagemap pagemap_;
  UniqueFd clear_refs_;
};

}  // namespace

Result<std::unique_ptr<SoftDirtyProcess>> open_soft_dirty(const KernelRoots& roots, const ProcessId& process) {
  auto pagemap = Pagemap::open(roots, process);
  if (!pagemap) return Failure{pagemap.error()};
  const auto held = Process::open(roots, process.pid);
  if (!held) return Failure{held.error()};
  const std::string subject = "clear_refs of process " + std::to_string(process.pid);
  if (held->id() != process) return failure_from(ESRCH, "open", subject, "its pid is another process's now");
  auto clear_refs = open_at(held->directory(), "clear_refs", O_WRONLY | O_CLOEXEC, subject);
  if (!clear_refs) return Failure{clear_refs.error()};
  return std::make_unique<ProcSoftDirty>(std::move(*pagemap), std::move(*clear_refs));
}

}  // namespace tidepool::kernel
