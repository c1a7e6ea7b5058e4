#include "tests/support/huge_pages.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "base/mapping.h"

namespace tidepool::tests {
namespace {

constexpr const char* kLimit = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";

std::string problem(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

bool write_text(int fd, const std::string& text) {
  return ::pwrite(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size());
}

}  // namespace

HugePages::HugePages(unsigned pages) {
  missing_ = set_up(pages);
}

HugePages::~HugePages() {
  mount_.reset();
  alive_.reset();
  if (keeper_ > 0) ::waitpid(keeper_, nullptr, 0);
}

std::string HugePages::operator/(const std::string& name) const {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(mount_.get()) + "/" + name;
}

std::string HugePages::set_up(unsigned pages) {
  if (std::string wrong = raise_limit(pages); !wrong.empty()) return wrong;
  if (std::string wrong = make_file_system(); !wrong.empty()) return wrong;
  return try_out(pages);
}

std::string HugePages::raise_limit(unsigned pages) {
  limit_ = UniqueFd{::open(kLimit, O_RDWR | O_CLOEXEC)};
  if (!limit_.valid()) return problem(kLimit);
  // The child below shares the open file, and with it the lock, until it has put the limit back.
  if (::flock(limit_.get(), LOCK_EX) != 0) return problem("lock " + std::string(kLimit));
  std::array<char, 32> before{};
  const ssize_t length = ::pread(limit_.get(), before.data(), before.size() - 1, 0);
  if (length <= 0) return problem("read " + std::string(kLimit));
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return problem("pipe");
  alive_ = UniqueFd{ends[1]};
  const UniqueFd ended{ends[0]};
  keeper_ = ::fork();
  if (keeper_ < 0) return problem("fork");
  if (keeper_ == 0) {
    ::setsid();  // what ends the test from the terminal does not end this
    ::close(alive_.get());
    char nothing = 0;
    while (::read(ended.get(), &nothing, 1) < 0 && errno == EINTR) {
    }
    ::_exit(::pwrite(limit_.get(), before.data(), static_cast<std::size_t>(length), 0) == length ? 0 : 1);
  }
  if (!write_text(limit_.get(), std::to_string(std::strtoul(before.data(), nullptr, 10) + pages)))
    return problem("write " + std::string(kLimit));
  return {};
}

std::string HugePages::make_file_system() {
  const UniqueFd system{::fsopen("hugetlbfs", FSOPEN_CLOEXEC)};
  if (!system.valid()) return problem("hugetlbfs");
  if (::fsconfig(system.get(), FSCONFIG_SET_STRING, "pagesize", "2M", 0) != 0 ||
      ::fsconfig(system.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return problem("hugetlbfs of 2 MiB pages");
  mount_ = UniqueFd{::fsmount(system.get(), FSMOUNT_CLOEXEC, 0)};
  return mount_.valid() ? "" : problem("mount hugetlbfs");
}

std::string HugePages::try_out(unsigned pages) const {
  const UniqueFd file{::open((*this / "try").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  if (!file.valid()) return problem("a file on hugetlbfs");
  const Bytes all{pages * kHugePage.value};
  if (::unlink((*this / "try").c_str()) != 0 || ::ftruncate(file.get(), static_cast<off_t>(all.value)) != 0)
    return problem("a file on hugetlbfs");
  const auto reserved = Mapping::of_file(file.get(), all, Bytes{}, PROT_NONE, MAP_SHARED);
  return reserved ? "" : "the host has no " + std::to_string(pages) + " huge pages to spare";
}

}  // namespace tidepool::tests
