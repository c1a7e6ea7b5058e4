// Heatmaps and working sets as JSON.
#include <boost/json.hpp>

#include "base/quantity_text.h"
#include "daemon/control/api_json.h"

namespace tidepool::daemon {

namespace json = boost::json;

json::object to_json(const Heatmap& map) {
  json::array stretches;
  for (const Heatmap::Stretch& each : map.stretches)
    stretches.push_back({{"object", each.object},
                         {"objects", each.objects},
                         {"offset_bytes", each.offset.value},
                         {"size_bytes", each.size.value},
                         {"address", each.address ? json::value(*each.address) : json::value(nullptr)}});
  json::array columns;
  for (const Heatmap::Column& column : map.columns) {
    json::array uses;
    json::array far;
    for (const auto& cell : column.cells) {
      uses.push_back(cell ? json::value(cell->uses) : json::value(nullptr));
      far.push_back(cell ? json::value(cell->far) : json::value(nullptr));
    }
    columns.push_back({{"at", rfc3339(column.start)}, {"uses", std::move(uses)}, {"far", std::move(far)}});
  }
  return {{"vm", map.vm},
          {"period_ms", map.period.count()},
          {"from", rfc3339(map.from)},
          {"until", rfc3339(map.until)},
          {"stretches", std::move(stretches)},
          {"columns", std::move(columns)}};
}

json::object to_json(const WorkingSet& set) {
  json::array curve;
  for (const WorkingSet::Point& point : set.curve)
    curve.push_back({{"local_bytes", point.local.value},
                     {"faults_per_second_best", point.best},
                     {"faults_per_second_lru", point.lru},
                     {"miss_ratio_best", set.uses > 0 ? point.best / set.uses : 0.0},
                     {"miss_ratio_lru", set.uses > 0 ? point.lru / set.uses : 0.0}});
  json::array offers;
  for (const WorkingSet::Offer& offer : set.offers)
    offers.push_back({{"slowdown", offer.slowdown},
                      {"local_bytes", offer.local.value},
                      {"gives_bytes", offer.gives.value},
                      {"faults_per_second", offer.faults}});
  json::array samples;
  for (const WorkingSet::Sample& sample : set.samples)
    samples.push_back({{"at", rfc3339(sample.start)},
                       {"used_in_1m_bytes", sample.minute.value},
                       {"used_in_10m_bytes", sample.ten_minutes.value},
                       {"resident_bytes", sample.resident.value},
                       {"far_bytes", sample.far.value}});
  return {{"vm", set.vm},
          {"resident_bytes", set.resident.value},
          {"far_bytes", set.far.value},
          {"used_in_1m_bytes", set.minute.value},
          {"used_in_10m_bytes", set.ten_minutes.value},
          {"uses_per_second", set.uses},
          {"fault_cost_ns", set.fault_cost.count()},
          {"fault_cost_measured", set.fault_cost_measured},
          {"threads", set.threads},
          {"stall_budget", set.stall_budget},
          {"curve", std::move(curve)},
          {"offers", std::move(offers)},
          {"period_ms", set.period.count()},
          {"samples", std::move(samples)}};
}

}  // namespace tidepool::daemon
