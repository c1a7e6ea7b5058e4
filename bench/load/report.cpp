#include "bench/load/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

namespace tidepool::load {
namespace {

using Seconds = std::chrono::duration<double>;

Totals difference(const Totals& now, const Totals& before) {
  Totals result = now;
  result.reads -= before.reads;
  result.writes -= before.writes;
  result.checked_pages -= before.checked_pages;
  result.discarded_pages -= before.discarded_pages;
  result.direct_transfers -= before.direct_transfers;
  result.latency.total -= before.latency.total;
  result.latency.sum_ns -= before.latency.sum_ns;
  for (unsigned i = 0; i < LatencyHistogram::kBuckets; ++i) result.latency.counts[i] -= before.latency.counts[i];
  return result;
}

double rate(const Totals& totals, Seconds time) {
  return time.count() > 0 ? static_cast<double>(totals.reads + totals.writes) / time.count() : 0;
}

std::uint64_t mean_ns(const LatencyHistogram::Snapshot& latency) {
  return latency.total > 0 ? latency.sum_ns / latency.total : 0;
}

boost::json::object to_json(const Totals& totals, Seconds time) {
  return {{"seconds", time.count()},
          {"operations", totals.reads + totals.writes},
          {"reads", totals.reads},
          {"writes", totals.writes},
          {"checked_pages", totals.checked_pages},
          {"discarded_pages", totals.discarded_pages},
          {"direct_transfers", totals.direct_transfers},
          {"operations_per_second", rate(totals, time)},
          {"latency_ns",
           {{"mean", mean_ns(totals.latency)},
            {"p50", totals.latency.percentile(0.50).count()},
            {"p99", totals.latency.percentile(0.99).count()},
            {"p999", totals.latency.percentile(0.999).count()},
            {"max", totals.slowest.count()}}}};
}

std::string to_line(const char* name, const Totals& totals, Seconds time) {
  const auto us = [](std::chrono::nanoseconds ns) { return static_cast<double>(ns.count()) / 1000; };
  return fmt::format("{:<9} {:>8.1f} {:>12} {:>12.0f} {:>9.1f} {:>9.1f} {:>9.1f} {:>10.1f} {:>10} {:>9} {:>9}\n", name,
                     time.count(), totals.reads + totals.writes, rate(totals, time),
                     us(totals.latency.percentile(0.50)), us(totals.latency.percentile(0.99)),
                     us(totals.latency.percentile(0.999)), us(totals.slowest), totals.checked_pages,
                     totals.discarded_pages, totals.direct_transfers);
}

std::string header_line() {
  return fmt::format("{:<9} {:>8} {:>12} {:>12} {:>9} {:>9} {:>9} {:>10} {:>10} {:>9} {:>9}\n", "", "seconds",
                     "operations", "per second", "p50 us", "p99 us", "p99.9 us", "max us", "checked", "discarded",
                     "direct");
}

}  // namespace

Reporter::Reporter(OutputFormat format, const MismatchLog& mismatches, std::vector<ThreadCounters>& counters)
    : format_(format), mismatches_(mismatches), counters_(counters) {}

void Reporter::work_started() {
  start_ = previous_time_ = std::chrono::steady_clock::now();
}

void Reporter::work_ended() {
  end_ = std::chrono::steady_clock::now();
}

Totals Reporter::take_totals() {
  Totals totals;
  for (ThreadCounters& thread : counters_) {
    totals.reads += thread.reads.load(std::memory_order_relaxed);
    totals.writes += thread.writes.load(std::memory_order_relaxed);
    totals.checked_pages += thread.checked_pages.load(std::memory_order_relaxed);
    totals.discarded_pages += thread.discarded_pages.load(std::memory_order_relaxed);
    totals.direct_transfers += thread.direct_transfers.load(std::memory_order_relaxed);
    totals.latency.merge(thread.latency.snapshot());
    totals.slowest =
        std::max(totals.slowest, std::chrono::nanoseconds{thread.slowest_ns.exchange(0, std::memory_order_relaxed)});
  }
  return totals;
}

std::string Reporter::interim() {
  const auto now = std::chrono::steady_clock::now();
  Totals totals = take_totals();
  const Totals recent = difference(totals, previous_);
  const Seconds recent_time = now - previous_time_;
  slowest_ = std::max(slowest_, totals.slowest);
  previous_ = totals;
  previous_time_ = now;
  totals.slowest = slowest_;
  const std::uint64_t mismatches = mismatches_.count();
  if (format_ == OutputFormat::kJson) {
    boost::json::object object{{"report", "interim"},
                               {"since_start", to_json(totals, now - start_)},
                               {"since_last", to_json(recent, recent_time)},
                               {"mismatches", mismatches}};
    return boost::json::serialize(object) + "\n";
  }
  return header_line() + to_line("so far", totals, now - start_) + to_line("recently", recent, recent_time) +
         fmt::format("mismatches {}\n", mismatches);
}

std::string Reporter::final() {
  const Seconds worked = std::max(std::chrono::steady_clock::duration{0}, end_ - start_);
  Totals totals = take_totals();
  totals.slowest = std::max(slowest_, totals.slowest);
  const std::vector<std::string> first = mismatches_.first();
  const std::uint64_t mismatches = mismatches_.count();
  if (format_ == OutputFormat::kJson) {
    boost::json::object object{
        {"report", "final"}, {"since_start", to_json(totals, worked)}, {"mismatches", mismatches}};
    object["first_mismatches"] = boost::json::array(first.begin(), first.end());
    return boost::json::serialize(object) + "\n";
  }
  std::string text = header_line() + to_line("total", totals, worked) + fmt::format("mismatches {}\n", mismatches);
  for (const std::string& description : first) text += "  " + description + "\n";
  return text;
}

}  // namespace tidepool::load
