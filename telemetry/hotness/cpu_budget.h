// A share of one core that a tracker keeps to, whatever the memory's size: what is saved up may be spent, what was
// overspent is paid back before more is done.
#pragma once

#include "base/clock.h"
#include "base/units.h"

namespace tidepool::telemetry {

// The share of one core that watching so much memory may cost: `per_100_gib` for every 100 GiB, begun ones included, so
// that a small host gets a useful view too.
double tracker_share(double per_100_gib, Bytes watched);

class CpuBudget {
 public:
  // `longest_saving`: unspent budget is kept for this long.
  explicit CpuBudget(const Clock& clock, Nanoseconds longest_saving = std::chrono::seconds(10));

  void set_share(double of_one_core);
  double share() const { return share_; }
  // What may be spent now; zero while in debt.
  Nanoseconds available();
  // Most that can ever be saved up: work that cannot be divided and costs more does not fit the budget.
  Nanoseconds most() const;
  void spend(Nanoseconds cost);
  Nanoseconds spent() const { return spent_; }  // since start

 private:
  const Clock& clock_;
  const Nanoseconds longest_saving_;
  double share_ = 0;
  double saved_ = 0;  // nanoseconds; negative: debt
  MonoTime last_{};
  Nanoseconds spent_{0};
};

// Measures what its scope costs and takes it from the budget. `cpu` is the CPU time of the calling thread.
class Spending {
 public:
  Spending(CpuBudget& budget, const Clock& cpu)
      : budget_(budget), cpu_(cpu), start_(cpu.now()), allowed_(budget.available()) {}
  Spending(const Spending&) = delete;
  Spending& operator=(const Spending&) = delete;
  ~Spending() { budget_.spend(so_far()); }

  Nanoseconds so_far() const { return cpu_.now() - start_; }
  Nanoseconds allowed() const { return allowed_; }
  // Nothing more should be begun.
  bool used_up() const { return so_far() >= allowed_; }

 private:
  CpuBudget& budget_;
  const Clock& cpu_;
  const MonoTime start_;
  const Nanoseconds allowed_;
};

}  // namespace tidepool::telemetry
