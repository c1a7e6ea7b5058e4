#include "daemon/pager/prefetcher.h"

#include <algorithm>

namespace tidepool::daemon {

std::optional<std::int64_t> Prefetcher::majority() const {
  const unsigned available = std::min(recorded_, kHistory);
  for (unsigned window = kHistory / 4; window <= kHistory; window *= 2) {
    const unsigned length = std::min(window, available);
    if (length < kHistory / 4) return std::nullopt;
    std::int64_t candidate = 0;
    unsigned votes = 0;
    const auto delta = [&](unsigned back) { return deltas_[(recorded_ - 1 - back) % kHistory]; };
    for (unsigned i = 0; i < length; ++i) {
      if (votes == 0) candidate = delta(i);
      votes = delta(i) == candidate ? votes + 1 : votes - 1;
    }
    unsigned occurrences = 0;
    for (unsigned i = 0; i < length; ++i) occurrences += delta(i) == candidate ? 1 : 0;
    if (candidate != 0 && occurrences > length / 2) return candidate;
    if (length < window) return std::nullopt;
  }
  return std::nullopt;
}

std::optional<PrefetchAdvice> Prefetcher::on_fault(std::uint64_t page, unsigned max_pages) {
  // A fault right behind what was fetched ahead is the stream going on, not a jump: record it as the stride it is.
  const bool stream_goes_on = expects(page);
  if (any_ && !stream_goes_on) {
    deltas_[recorded_ % kHistory] = static_cast<std::int64_t>(page) - static_cast<std::int64_t>(last_page_);
    ++recorded_;
  }
  any_ = true;
  last_page_ = page;
  const auto stride = majority();
  if (!stride) {
    ahead_ = kFirstAhead;
    expected_next_ = 0;
    return std::nullopt;
  }
  ahead_ = std::min(stream_goes_on ? ahead_ * 2 : kFirstAhead, max_pages);
  if (ahead_ == 0) return std::nullopt;
  expected_next_ = page + static_cast<std::uint64_t>(*stride * static_cast<std::int64_t>(ahead_ + 1));
  return PrefetchAdvice{*stride, ahead_};
}

}  // namespace tidepool::daemon
