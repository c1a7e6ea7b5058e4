#include "kmod-interfaces/advice_calls.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

std::optional<std::uint64_t> next_argument(std::string_view& rest) {
  const std::string_view word = next_word(rest);
  return word.starts_with("0x") ? parse_hex(word.substr(2)) : std::nullopt;
}

}  // namespace

std::optional<AdviceCall> parse_advice_call(std::string_view line) {
  line = trim(line);
  if (parse_decimal(next_word(line)) != static_cast<std::uint64_t>(SYS_madvise)) return std::nullopt;
  const auto start = next_argument(line);
  const auto length = next_argument(line);
  const auto advice = next_argument(line);
  constexpr std::uint64_t kTop = ~0ull - kPageSize;
  if (!start || !length || !advice || *start > kTop || *length > kTop - *start) return std::nullopt;
  const std::uint64_t whole_pages = (*length + kPageSize - 1) & ~(kPageSize - 1);
  return AdviceCall{{*start, *start + whole_pages}, static_cast<int>(*advice)};
}

std::vector<AddressRange> parse_vacated(std::string_view line) {
  line = trim(line);
  const auto number = parse_decimal(next_word(line));
  std::array<std::uint64_t, 6> arguments{};
  for (std::uint64_t& argument : arguments) argument = next_argument(line).value_or(0);
  const auto range = [](std::uint64_t start, std::uint64_t length) {
    return AddressRange{start, start + std::min<std::uint64_t>(length, ~0ull - start)};
  };
  if (number == static_cast<std::uint64_t>(SYS_munmap)) return {range(arguments[0], arguments[1])};
  if (number == static_cast<std::uint64_t>(SYS_brk)) return {{0, ~0ull}};
  if (number == static_cast<std::uint64_t>(SYS_mmap) && (arguments[3] & MAP_FIXED) != 0)
    return {range(arguments[0], arguments[1])};
  if (number != static_cast<std::uint64_t>(SYS_mremap)) return {};
  std::vector<AddressRange> gone{range(arguments[0], arguments[1])};
  if ((arguments[3] & MREMAP_FIXED) != 0) gone.push_back(range(arguments[4], arguments[2]));
  return gone;
}

Result<AdviceCalls> read_advice_calls(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/task";
  const auto directory = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, path);
  if (!directory) return Failure{directory.error()};
  const auto threads = list_numbers_at(directory->get(), ".", path, kMaxAdvisingThreads);
  if (!threads) return Failure{threads.error()};
  AdviceCalls found;
  for (const std::uint64_t thread : *threads) {
    const UniqueFd file{
        ::openat(directory->get(), (std::to_string(thread) + "/syscall").c_str(), O_RDONLY | O_CLOEXEC)};
    std::array<char, 256> text{};
    const ssize_t got = file.valid() ? ::read(file.get(), text.data(), text.size()) : -1;
    if (got <= 0) continue;  // it has ended
    const std::string_view line(text.data(), static_cast<std::size_t>(got));
    if (const auto call = parse_advice_call(line)) found.calls.push_back(*call);
    for (const AddressRange& range : parse_vacated(line)) found.vacates.push_back(range);
  }
  return found;
}

}  // namespace tidepool::kernel
