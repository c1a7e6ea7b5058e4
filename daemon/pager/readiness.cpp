#include "daemon/pager/readiness.h"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

namespace tidepool::daemon {

Result<> Readiness::open() {
  epoll_ = UniqueFd{::epoll_create1(EPOLL_CLOEXEC)};
  if (!epoll_.valid()) return errno_failure("create", "epoll");
  direct_.reserve(kMaxAskedDirectly);
  return {};
}

int Readiness::control(int operation, int fd, void* key, bool on) const {
  epoll_event event{};
  if (on) event.events = EPOLLIN;
  event.data.ptr = key;
  return ::epoll_ctl(epoll_.get(), operation, fd, &event) == 0 ? 0 : errno;
}

bool Readiness::no_longer_directly(void* key) {
  return std::erase_if(direct_, [&](const Direct& direct) { return direct.key == key; }) != 0;
}

int Readiness::watch(int fd, void* key) {
  return control(EPOLL_CTL_ADD, fd, key, true);
}

void Readiness::forget(int fd, void* key) {
  if (!no_longer_directly(key)) control(EPOLL_CTL_DEL, fd, key, false);
}

void Readiness::listen(int fd, void* key, bool on) {
  control(no_longer_directly(key) ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, key, on);
}

void Readiness::ask_directly(int fd, void* key) {
  const bool already = std::ranges::any_of(direct_, [&](const Direct& direct) { return direct.key == key; });
  if (already || direct_.size() == kMaxAskedDirectly) return;
  if (control(EPOLL_CTL_DEL, fd, key, false) == 0) direct_.push_back({fd, key});
}

void Readiness::take_watched(Nanoseconds timeout) {
  std::array<epoll_event, kMaxReady> events;
  const auto seconds = std::chrono::floor<std::chrono::seconds>(timeout);
  const timespec patience{seconds.count(), (timeout - seconds).count()};
  const int room = static_cast<int>(kMaxReady - ready_);
  const int count = ::epoll_pwait2(epoll_.get(), events.data(), room, &patience, nullptr);
  for (int i = 0; i < count; ++i) keys_[ready_++] = events[static_cast<std::size_t>(i)].data.ptr;
}

std::span<void* const> Readiness::poll() {
  ready_ = 0;
  std::array<pollfd, kMaxAskedDirectly + 1> asked;
  for (std::size_t i = 0; i < direct_.size(); ++i) asked[i] = {direct_[i].fd, POLLIN, 0};
  asked[direct_.size()] = {epoll_.get(), POLLIN, 0};
  if (!direct_.empty() && ::poll(asked.data(), direct_.size() + 1, 0) <= 0) return {};
  for (std::size_t i = 0; i < direct_.size(); ++i) {
    if (asked[i].revents != 0) keys_[ready_++] = direct_[i].key;
  }
  if (direct_.empty() || asked[direct_.size()].revents != 0) take_watched(Nanoseconds{0});
  return std::span(keys_).first(ready_);
}

std::span<void* const> Readiness::wait(Nanoseconds timeout) {
  ready_ = 0;
  for (const Direct& direct : direct_) control(EPOLL_CTL_ADD, direct.fd, direct.key, true);
  direct_.clear();
  take_watched(timeout);
  return std::span(keys_).first(ready_);
}

}  // namespace tidepool::daemon
