// tidepool-cache-load: keeps a memcached or Redis busy with values whose every byte is known, and checks what comes
// back.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <cstring>
#include <exception>
#include <thread>

#include "bench/load/access_pattern.h"
#include "bench/load/cache_connection.h"
#include "bench/load/foreground.h"
#include "bench/load/load_options.h"
#include "bench/load/pacer.h"

namespace tidepool::load {
namespace {

struct CacheOptions {
  std::string memcached;
  std::string redis;
  std::uint64_t keys = 20'000;
  std::size_t value_size = 4096;
  std::uint64_t seed = 1;
  unsigned threads = 2;
  double duration = 10;
  double read_ratio = 0.8;
  double theta = 0.99;
  double rate = 0;
  bool json = false;
};

// Raised inside a thread when the server fails it; the run then ends as a failure.
struct ServerFailed {
  std::string why;
};

// The keys of one thread: nobody else writes them, so their versions are known without a lock.
class KeyShare {
 public:
  KeyShare(const CacheOptions& options, unsigned thread, MismatchLog& mismatches)
      : options_(options),
        thread_(thread),
        content_(options.seed),
        mismatches_(mismatches),
        versions_(options.keys / options.threads + 1) {
    const bool redis = !options.redis.empty();
    auto connection = connect_to_cache(redis ? CacheProtocol::kRedis : CacheProtocol::kMemcached,
                                       redis ? options.redis : options.memcached);
    if (!connection) throw ServerFailed{connection.error().message()};
    connection_ = std::move(*connection);
  }

  std::uint64_t size() const { return versions_.size(); }

  void write(std::uint64_t index) {
    const std::uint64_t version = ++versions_[index];
    const auto stored = connection_->set(key(index), value(index, version));
    if (!stored) throw ServerFailed{stored.error().message()};
  }

  void check(std::uint64_t index) {
    const auto got = connection_->get(key(index));
    if (!got) throw ServerFailed{got.error().message()};
    if (!*got) {
      mismatches_.add(key(index) + ": the server has lost it");
    } else if (**got != value(index, versions_[index])) {
      mismatches_.add(fmt::format("{}: version {} expected, {} of {} bytes came and are not it", key(index),
                                  versions_[index], (*got)->size(), options_.value_size));
    }
  }

 private:
  std::string key(std::uint64_t index) const { return fmt::format("tidepool:{}:{}", thread_, index); }
  std::string_view value(std::uint64_t index, std::uint64_t version) {
    content_.write(&page_, (index * options_.threads + thread_) * kPageSize, version);
    return {reinterpret_cast<const char*>(&page_), options_.value_size};
  }

  const CacheOptions& options_;
  unsigned thread_;
  PageContent content_;
  MismatchLog& mismatches_;
  std::vector<std::uint64_t> versions_;
  std::unique_ptr<CacheConnection> connection_;
  struct alignas(kPageSize) {
    std::array<char, kPageSize> bytes;
  } page_{};
};

class CacheRun {
 public:
  explicit CacheRun(const CacheOptions& options) : options_(options), counters_(options.threads) {
    for (unsigned t = 0; t < options.threads; ++t)
      shares_.push_back(std::make_unique<KeyShare>(options, t, mismatches_));
  }

  void fill() {
    on_all_threads([](KeyShare& share, ThreadCounters&, unsigned) {
      for (std::uint64_t i = 0; i < share.size(); ++i) share.write(i);
    });
  }
  void check_all() {
    on_all_threads([](KeyShare& share, ThreadCounters& counters, unsigned) {
      for (std::uint64_t i = 0; i < share.size(); ++i) {
        share.check(i);
        counters.checked_pages.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  // Until `stop`.
  std::vector<std::jthread> start_work() {
    stopping_ = false;
    return start([this](KeyShare& share, ThreadCounters& counters, unsigned thread) { work(share, counters, thread); });
  }
  void stop() { stopping_ = true; }

  MismatchLog& mismatches() { return mismatches_; }
  std::vector<ThreadCounters>& counters() { return counters_; }

 private:
  template <class Body>
  std::vector<std::jthread> start(Body body) {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < options_.threads; ++t) {
      threads.emplace_back([this, body, t] {
        try {
          body(*shares_[t], counters_[t], t);
        } catch (const ServerFailed& failed) {
          mismatches_.add(failed.why);
          stopping_ = true;
        }
      });
    }
    return threads;
  }
  template <class Body>
  void on_all_threads(Body body) {
    start(body);  // the threads are joined as the vector goes
  }

  void work(KeyShare& share, ThreadCounters& counters, unsigned thread) {
    const PatternSettings settings{.theta = options_.theta, .clustered = false, .read_ratio = options_.read_ratio};
    AccessPattern pattern(settings, PageCount{share.size()}, options_.seed, thread, options_.threads);
    Pacer pacer(options_.rate, options_.threads);
    while (!stopping_.load(std::memory_order_relaxed)) {
      const Access access = pattern.next({});
      const auto begin = std::chrono::steady_clock::now();
      if (access.write) {
        share.write(access.page);
      } else {
        share.check(access.page);
      }
      counters.record(access.write, std::chrono::steady_clock::now() - begin);
      pacer.wait(stopping_);
    }
  }

  const CacheOptions& options_;
  MismatchLog mismatches_;
  std::vector<ThreadCounters> counters_;
  std::vector<std::unique_ptr<KeyShare>> shares_;
  std::atomic<bool> stopping_{false};
};

int run_cache_load(const CacheOptions& options) {
  const SignalWaiter signals;
  CacheRun run(options);
  run.fill();
  print(fmt::format("ready pid={} keys={}\n", ::getpid(), options.keys));
  Reporter reporter(options.json ? OutputFormat::kJson : OutputFormat::kTable, run.mismatches(), run.counters());
  reporter.work_started();
  {
    std::vector<std::jthread> threads = run.start_work();
    const auto check = [&] {
      run.stop();
      threads.clear();
      run.check_all();
      const std::size_t wrong = run.mismatches().count();
      print(options.json ? fmt::format("{{\"report\":\"checked\",\"mismatches\":{}}}\n", wrong)
                         : fmt::format("checked all keys, mismatches {}\n", wrong));
      threads = run.start_work();
    };
    const auto limit =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(options.duration));
    wait_for(limit, options.duration <= 0, signals, reporter, check);
    run.stop();
  }
  reporter.work_ended();
  signals.restore_defaults();
  run.check_all();
  print(reporter.final());
  return run.mismatches().count() == 0 ? 0 : kExitMismatch;
}

void add_options(CLI::App& app, CacheOptions& options) {
  CLI::Option* memcached =
      app.add_option("--memcached", options.memcached, "server: HOST:PORT or a unix socket's path");
  app.add_option("--redis", options.redis, "server: HOST:PORT or a unix socket's path")->excludes(memcached);
  app.add_option("--keys", options.keys, "keys to store")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--value-size", options.value_size, "bytes of each value")
      ->capture_default_str()
      ->check(CLI::Range(1, static_cast<int>(kPageSize)));
  app.add_option("--seed", options.seed, "values and accesses")->capture_default_str();
  app.add_option("--threads", options.threads, "connections, one thread each")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_option("--duration", options.duration, "seconds of work; 0: until SIGINT or SIGTERM")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e7));
  app.add_option("--read-ratio", options.read_ratio, "share of GETs")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--theta", options.theta, "skew of the keys (zipf)")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 5.0));
  app.add_option("--rate", options.rate, "requests per second of all threads; 0: as many as possible")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option_function<std::string>(
         "-o,--output", [&options](const std::string& format) { options.json = format == "json"; }, "table | json")
      ->check(CLI::IsMember({"table", "json"}));
}

}  // namespace
}  // namespace tidepool::load

int main(int argc, char** argv) {
  using namespace tidepool::load;
  try {
    CLI::App app{
        "Stores values whose every byte is known in a memcached or Redis, reads them back under load and checks them; "
        "a value that is lost\n"
        "counts as wrong. Prints `ready` once all keys are stored. SIGUSR1: interim report. SIGUSR2: check every key, "
        "then go on. SIGINT, SIGTERM: check "
        "all, report, exit.\n"
        "Exit status: 0 every byte was right, 1 a mismatch or a failure, 2 wrong usage."};
    CacheOptions options;
    add_options(app, options);
    try {
      app.parse(argc, argv);
      if (options.memcached.empty() == options.redis.empty()) throw CLI::RequiredError("one of --memcached, --redis");
    } catch (const CLI::ParseError& error) {
      return app.exit(error, std::cout, std::cerr) == 0 ? 0 : kExitUsage;
    }
    keep_bookkeeping_small();
    return run_cache_load(options);
  } catch (const ServerFailed& failed) {
    std::fprintf(stderr, "tidepool-cache-load: %s\n", failed.why.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tidepool-cache-load: %s\n", error.what());
  }
  return 1;
}
