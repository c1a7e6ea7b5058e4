// How long a controller that begins takes to its first answer, with the records of a large pool: the program of the
// same build, on SQLite and, where it is installed, on etcd.
//
//   bench_controller_restart [SLICES-PER-VM]     10 by default, of 10,000 VMs
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <thread>

#include "bench/controller/large_pool.h"
#include "bench/support/timing.h"
#include "pool/controller/state/etcd_store.h"
#include "pool/controller/state/sqlite_store.h"
#include "service/http/client.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/program.h"

namespace tidepool::bench {
namespace {

using namespace pool::controller;

constexpr int kRounds = 7;
using Clock = std::chrono::steady_clock;

void fill(StateStore& store, std::span<const StateChange> records) {
  if (const Result<> leads = store.lead(); !leads) throw std::runtime_error(leads.error().message());
  const auto begun = Clock::now();
  for (std::size_t at = 0; at < records.size(); at += store.most_changes()) {
    const auto rest = records.subspan(at);
    const Result<> done = store.commit(rest.first(std::min(rest.size(), store.most_changes())));
    if (!done) throw std::runtime_error(done.error().message());
  }
  std::cout << store.kind() << ": " << records.size() << " records written in " << Seconds(Clock::now() - begun).count()
            << " s\n";
}

double first_answer(const tests::TestFolder& folder) {
  http::ClientOptions options;
  options.endpoints = {"unix:" + (folder / "controller.sock")};
  const auto client = http::Client::make(options);
  if (!client) throw std::runtime_error(client.error().message());
  const auto begun = Clock::now();
  const pid_t pid = tests::start_program({"tidepool-controller", "--config", folder / "controller.toml"}, {},
                                         folder / "out", folder / "log");
  while (true) {
    const Result<http::Answer> answer = (*client)->request("GET", "/v1/status");
    if (answer && answer->status == 200) break;
    if (Clock::now() - begun > std::chrono::seconds(60)) throw std::runtime_error(tests::read_file(folder / "log"));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const double seconds = Seconds(Clock::now() - begun).count();
  ::kill(pid, SIGTERM);
  tests::await_exit(pid);
  return seconds;
}

void measure(const std::string& settings, const tests::TestFolder& folder, const std::string& what) {
  std::ofstream(folder / "controller.toml")
      << "schema = 1\nname = \"bench\"\napi.socket = \"" << (folder / "controller.sock") << "\"\napi.audit_log = \"\"\n"
      << settings;
  std::vector<double> seconds;
  seconds.reserve(kRounds);
  for (int round = 0; round < kRounds; ++round) seconds.push_back(first_answer(folder));
  std::cout << what << ": first answer after " << median(seconds) << " s (median of " << kRounds << ", longest "
            << *std::ranges::max_element(seconds) << " s)\n";
}

void on_sqlite(std::span<const StateChange> records) {
  const tests::TestFolder folder;
  const std::string file = folder / "state.db";
  fill(*make_sqlite_store(file, "bench"), records);
  measure("state.file = \"" + file + "\"\n", folder, "sqlite");
}

void on_etcd(std::span<const StateChange> records) {
  if (!tests::EtcdCluster::installed()) {
    std::cout << "etcd: not installed (scripts/setup)\n";
    return;
  }
  const tests::EtcdCluster etcd;
  const tests::TestFolder folder;
  EtcdStoreOptions options;
  options.endpoints.urls = etcd.urls();
  auto store = make_etcd_store(options);
  if (!store) throw std::runtime_error(store.error().message());
  fill(**store, records);
  store->reset();
  measure("state.store = \"etcd\"\netcd.endpoints = [\"" + etcd.urls().front() + "\"]\n", folder, "etcd");
}

int run(int argc, char** argv) {
  const std::uint32_t slices = argc > 1 ? static_cast<std::uint32_t>(std::strtoul(argv[1], nullptr, 10)) : 10;
  if (argc > 2 || slices == 0) {
    std::cerr << "usage: bench_controller_restart [SLICES-PER-VM]\n";
    return 2;
  }
  const LargePoolShape shape;
  LargePool pool(shape);
  pool.fill(slices);
  const std::vector<StateChange> records = pool.core().records();
  const unsigned vms = shape.hosts * shape.vms_per_host;
  std::cout << vms << " VMs with " << slices << " slices each, " << shape.servers << " servers: " << records.size()
            << " records\n";
  on_sqlite(records);
  on_etcd(records);
  return 0;
}

}  // namespace
}  // namespace tidepool::bench

int main(int argc, char** argv) {
  try {
    return tidepool::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "bench_controller_restart: " << error.what() << "\n";
    return 1;
  }
}
