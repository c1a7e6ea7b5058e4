#include "daemon/pager/prefetcher.h"

#include <algorithm>

namespace tidepool::daemon {

std::optional<std::int64_t> Prefetcher::majority(unsigned length) const {
  std::int64_t candidate = 0;
  unsigned votes = 0;
  for (unsigned i = 0; i < length; ++i) {
    if (votes == 0) candidate = delta(i);
    votes = delta(i) == candidate ? votes + 1 : votes - 1;
  }
  unsigned occurrences = 0;
  for (unsigned i = 0; i < length; ++i) occurrences += delta(i) == candidate ? 1 : 0;
  if (candidate == 0 || occurrences <= length / 2) return std::nullopt;
  return candidate;
}

// Three quarters of the steps are short and lead the same way.
std::optional<std::int64_t> Prefetcher::walk(unsigned length) const {
  unsigned forward = 0, back = 0;
  for (unsigned i = 0; i < length; ++i) {
    forward += delta(i) > 0 && delta(i) <= kShortStep ? 1 : 0;
    back += delta(i) < 0 && delta(i) >= -kShortStep ? 1 : 0;
  }
  if (std::max(forward, back) * 4 < length * 3) return std::nullopt;
  return forward > back ? 1 : -1;
}

std::optional<std::int64_t> Prefetcher::stride() const {
  for (unsigned length = kHistory / 4; length <= kHistory && length <= recorded_; length *= 2) {
    const auto same = majority(length);
    const auto walking = walk(length);
    if (!walking) {
      if (same) return same;
      continue;
    }
    // A stride whose exceptions are no multiples of it is a walk that met the same gap some times.
    const auto fits = [&] {
      for (unsigned i = 0; i < length; ++i) {
        if (delta(i) % *same != 0) return false;
      }
      return true;
    };
    return same && fits() ? same : walking;
  }
  return std::nullopt;
}

bool Prefetcher::expects(std::uint64_t page) const {
  if (!any_ || expected_next_ == 0) return false;
  const auto beyond = static_cast<std::int64_t>(page - expected_next_);
  if (stride_ == 1) return beyond >= 0 && beyond < kGap;
  if (stride_ == -1) return beyond <= 0 && beyond > -kGap;
  return beyond == 0;
}

bool Prefetcher::within_window(std::uint64_t page) const {
  if (expected_next_ == 0) return false;
  return stride_ > 0 ? page > last_page_ && page < expected_next_ : page < last_page_ && page > expected_next_;
}

std::optional<PrefetchAdvice> Prefetcher::on_fault(std::uint64_t page, unsigned max_pages) {
  // Once more the same: its answer could not be given. Nothing new.
  if (any_ && page == last_page_) return std::nullopt;
  const bool stream_goes_on = expects(page);
  // One that was not fetched with the others says nothing against the stream; several, that they were not fetched.
  if (!stream_goes_on && within_window(page)) {
    if (++missed_ < kMostMissed) return std::nullopt;
    record(stride_);
  } else if (stream_goes_on) {
    // Right behind what was fetched ahead: recorded as the stride it is.
    record(stride_);
  } else if (any_) {
    record(static_cast<std::int64_t>(page - last_page_));
  }
  any_ = true;
  missed_ = 0;
  last_page_ = page;
  const auto found = stride();
  if (!found) {
    ahead_ = kFirstAhead;
    expected_next_ = 0;
    return std::nullopt;
  }
  // Elsewhere, but as before: half as sure as it was.
  const unsigned sure = *found == stride_ ? std::max(ahead_ / 2, kFirstAhead) : kFirstAhead;
  ahead_ = std::min(stream_goes_on ? ahead_ * 2 : sure, max_pages);
  if (ahead_ == 0) return std::nullopt;
  stride_ = *found;
  expected_next_ = page + static_cast<std::uint64_t>(stride_ * static_cast<std::int64_t>(ahead_ + 1));
  return PrefetchAdvice{stride_, ahead_};
}

}  // namespace tidepool::daemon
