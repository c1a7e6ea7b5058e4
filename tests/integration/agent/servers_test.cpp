// Servers as people run them, under a real load, while the agent holds them to a part of their memory: Redis with its
// background save, memcached with its memory in a file, PostgreSQL with all its processes.
#include <grp.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "bench/load/cache_connection.h"
#include "bench/load/page_content.h"
#include "tests/integration/agent/whole_rig.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;
using load::CacheProtocol;

// A server that ends with the test.
class Server {
 public:
  Server(const TestFolder& folder, const std::string& name, const Words& words)
      : log_(folder / (name + ".log")), pid_(start_program(words, {}, log_, log_)) {}
  ~Server() { end(SIGKILL); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  pid_t pid() const { return pid_; }
  std::string log() const { return read_file(log_); }
  void end(int signal) {
    if (pid_ <= 0) return;
    ::kill(pid_, signal);
    await_exit(pid_);
    pid_ = 0;
  }

 private:
  std::string log_;
  pid_t pid_;
};

bool answers(CacheProtocol protocol, const std::string& socket) {
  return await([&] { return load::connect_to_cache(protocol, socket).has_value(); });
}

Words cache_load(const std::string& option, const std::string& socket, std::uint64_t keys) {
  return {"tidepool-cache-load",
          option,
          socket,
          "--keys",
          std::to_string(keys / slowness()),
          "--threads",
          "2",
          "--read-ratio",
          "0.6",
          "--duration",
          "0",
          "--theta",
          "0.1"};
}

// tidepool-cache-load prints "ready" without an address.
class Client {
 public:
  Client(const TestFolder& folder, const Words& words)
      : output_(folder / "client.out"), pid_(start_program(words, {}, output_, output_)) {
    EXPECT_TRUE(await([&] { return read_file(output_).find("ready") != std::string::npos; })) << read_file(output_);
  }
  ~Client() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
    if (pid_ > 0) await_exit(pid_);
  }
  void finish() {
    ::kill(pid_, SIGTERM);
    EXPECT_EQ(await_exit(pid_), 0) << read_file(output_);
    pid_ = 0;
    EXPECT_NE(read_file(output_).find("mismatches 0\n"), std::string::npos) << read_file(output_);
    std::printf("%s", read_file(output_).c_str());
  }

 private:
  std::string output_;
  pid_t pid_;
};

std::string redis(const std::string& socket, const Words& command) {
  Words words{"/usr/bin/redis-cli", "-s", socket};
  words.insert(words.end(), command.begin(), command.end());
  return run_program(words).out;
}

Words redis_server(const TestFolder& folder, const std::string& socket) {
  return {"/usr/bin/redis-server", "--port",     "0",     "--unixsocket", socket, "--save", "", "--dir",
          folder.path(),           "--loglevel", "notice"};
}

// A value of the load generator says itself what it should be.
bool is_whole(const std::string& value) {
  alignas(kPageSize) std::array<char, kPageSize> page{};
  if (value.size() != page.size()) return false;
  std::memcpy(page.data(), value.data(), value.size());
  std::array<std::uint64_t, 2> words{};
  std::memcpy(words.data(), page.data(), sizeof words);
  const load::Expectation expected{.address = words[0], .version = words[1], .zero = words[0] == 0 && words[1] == 0};
  return load::PageContent(1).matches(page.data(), expected, load::Thoroughness::kFull);
}

TEST(Servers, RedisAnswersAndSavesWhileItsPagesMove) {
  REQUIRE_AGENT();
  if (!std::filesystem::exists("/usr/bin/redis-server")) GTEST_SKIP() << "redis-server is not installed";
  Whole whole;
  ASSERT_TRUE(whole.start());
  const TestFolder folder;
  const std::string socket = folder / "redis.sock";
  Server server(folder, "redis", redis_server(folder, socket));
  ASSERT_TRUE(answers(CacheProtocol::kRedis, socket)) << server.log();
  constexpr std::uint64_t kKeys = 12000;
  Client client(folder, cache_load("--redis", socket, kKeys));
  const ProcessState before = settled_state(server.pid());
  ASSERT_TRUE(whole.adopt(server.pid(), "redis", {}, {"--mapping", "private"}));
  whole.limit("redis", Bytes{(20ull << 20) / slowness()});
  whole.await_moved("redis", Bytes{4u << 20}, Bytes{1u << 20});
  int saves = 0;
  const auto end = std::chrono::steady_clock::now() + churn_time(3s);
  do {
    redis(socket, {"bgsave"});
    EXPECT_TRUE(await([&] {
      return redis(socket, {"info", "persistence"}).find("rdb_bgsave_in_progress:0") != std::string::npos;
    }));
    EXPECT_NE(redis(socket, {"info", "persistence"}).find("rdb_last_bgsave_status:ok"), std::string::npos)
        << server.log();
    ++saves;
  } while (std::chrono::steady_clock::now() < end);
  whole.await_moved("redis", Bytes{1u << 20}, Bytes{1u << 20});
  std::printf("%d saves, out %.1f MiB, home %.1f MiB\n", saves,
              static_cast<double>(whole.figure("redis", "demoted_bytes_total")) / (1 << 20),
              static_cast<double>(whole.figure("redis", "promoted_bytes_total")) / (1 << 20));
  EXPECT_TRUE(whole.release("redis"));
  expect_as_found(server.pid(), before);
  client.finish();

  // What was saved is whole: another server loads it, and every value in it is right.
  ASSERT_TRUE(std::filesystem::exists(folder / "dump.rdb"));
  server.end(SIGKILL);
  const std::string second_socket = folder / "second.sock";
  Server second(folder, "second", redis_server(folder, second_socket));
  ASSERT_TRUE(answers(CacheProtocol::kRedis, second_socket)) << second.log();
  auto connection = load::connect_to_cache(CacheProtocol::kRedis, second_socket);
  ASSERT_TRUE(connection);
  std::uint64_t found = 0;
  for (unsigned thread = 0; thread < 2; ++thread) {
    for (std::uint64_t i = 0; i < kKeys / slowness() / 2; ++i) {
      auto value = (*connection)->get("tidepool:" + std::to_string(thread) + ":" + std::to_string(i));
      while (!value && value.error().message().find("LOADING") != std::string::npos)
        value = (*connection)->get("tidepool:" + std::to_string(thread) + ":" + std::to_string(i));
      ASSERT_TRUE(value) << value.error().message();
      ASSERT_TRUE(*value) << thread << ":" << i << " is not in the dump";
      ASSERT_TRUE(is_whole(**value)) << thread << ":" << i;
      ++found;
    }
  }
  EXPECT_EQ(found, kKeys / slowness() / 2 * 2);
  EXPECT_EQ(whole.stop(), 0);
  EXPECT_TRUE(whole.held().empty()) << testing::PrintToString(whole.held());
}

TEST(Servers, MemcachedAnswersWhileItsFilesPagesMove) {
  REQUIRE_AGENT();
  if (!std::filesystem::exists("/usr/bin/memcached")) GTEST_SKIP() << "memcached is not installed";
  Whole whole;
  ASSERT_TRUE(whole.start());
  const TestFolder folder;
  const std::string socket = folder / "memcached.sock";
  const std::string file = "/dev/shm/tidepool-memcached-" + std::to_string(::getpid());
  {
    Server server(folder, "memcached",
                  {"/usr/bin/memcached", "-u", "root", "-p", "0", "-s", socket, "-m", "128", "-e", file, "-t", "2"});
    ASSERT_TRUE(answers(CacheProtocol::kMemcached, socket)) << server.log();
    Client client(folder, cache_load("--memcached", socket, 12000));
    const ProcessState before = settled_state(server.pid());
    ASSERT_TRUE(whole.adopt(server.pid(), "memcached"));
    whole.limit("memcached", Bytes{(20ull << 20) / slowness()});
    whole.await_moved("memcached", Bytes{4u << 20}, Bytes{4u << 20});
    std::this_thread::sleep_for(churn_time(2s));
    EXPECT_TRUE(whole.release("memcached"));
    expect_as_found(server.pid(), before);
    client.finish();
  }
  std::filesystem::remove(file);
  EXPECT_EQ(whole.stop(), 0);
}

// PostgreSQL refuses to run as root.
class Postgres {
 public:
  explicit Postgres(const std::string& binaries) : binaries_(binaries) {
    const passwd* nobody = ::getpwnam("nobody");
    EXPECT_NE(nobody, nullptr);
    EXPECT_EQ(::chown(folder_.path().c_str(), nobody->pw_uid, nobody->pw_gid), 0);
    const Outcome made =
        run_program(as_nobody({binaries_ + "/initdb", "-D", data(), "-U", "test", "-A", "trust", "-N"}));
    EXPECT_EQ(made.code, 0) << made.all();
    server_ = std::make_unique<Server>(
        logs_, "postgres",
        as_nobody({binaries_ + "/postgres", "-D", data(), "-k", folder_.path(), "-c", "listen_addresses=", "-c",
                   "shared_buffers=64MB", "-c", "huge_pages=off", "-c", "fsync=off", "-c", "autovacuum=off"}));
    EXPECT_TRUE(await([&] { return sql("select 1").code == 0; })) << server_->log();
  }
  ~Postgres() { server_->end(SIGINT); }
  // setpriv becomes the server.
  pid_t pid() const { return server_->pid(); }
  Outcome sql(const std::string& text) const {
    return run_program({binaries_ + "/psql", "-h", folder_.path(), "-U", "test", "-d", "postgres", "-Atqc", text});
  }

 private:
  std::string data() const { return folder_ / "data"; }
  static Words as_nobody(const Words& words) {
    Words all{"/usr/bin/setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"};
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }
  std::string binaries_;
  TestFolder folder_;
  TestFolder logs_;
  std::unique_ptr<Server> server_;
};

std::string postgres_binaries() {
  std::error_code error;
  for (const auto& version : std::filesystem::directory_iterator("/usr/lib/postgresql", error)) {
    if (std::filesystem::exists(version.path() / "bin/postgres")) return version.path() / "bin";
  }
  return {};
}

TEST(Servers, PostgresAnswersWhileItsSharedBuffersMove) {
  REQUIRE_AGENT();
  const std::string binaries = postgres_binaries();
  if (binaries.empty()) GTEST_SKIP() << "PostgreSQL is not installed";
  Whole whole;
  ASSERT_TRUE(whole.start());
  Postgres postgres(binaries);
  ASSERT_EQ(
      postgres.sql("create table t as select g, 0 as n, repeat(md5(g::text), 30) as d from generate_series(1, 30000) g")
          .code,
      0);
  // Every row says itself whether it is right; n counts how often it was written.
  const std::string check = "select count(*) filter (where d <> repeat(md5(g::text), 30)), count(*), sum(n) from t";
  ASSERT_EQ(postgres.sql(check).out, "0|30000|0\n");
  const ProcessState before = settled_state(postgres.pid());
  ASSERT_TRUE(whole.adopt(postgres.pid(), "postgres", {}, {"--mapping", "shared"}));
  whole.limit("postgres", Bytes{8ull << 20});
  whole.await_moved_in_all("postgres", Bytes{8u << 20}, Bytes{});
  int rounds = 0;
  const auto end = std::chrono::steady_clock::now() + churn_time(3s);
  do {
    ++rounds;
    // Each of these is a process of its own, forked by an adopted one.
    ASSERT_EQ(postgres.sql("update t set n = n + 1 where g % 10 = " + std::to_string(rounds % 10)).code, 0);
    ASSERT_EQ(postgres.sql(check).out, "0|30000|" + std::to_string(rounds * 3000) + "\n");
  } while (std::chrono::steady_clock::now() < end);
  std::printf("%d rounds, out %.1f MiB, home %.1f MiB\n", rounds,
              static_cast<double>(whole.figure("postgres", "demoted_bytes_total")) / (1 << 20),
              static_cast<double>(whole.figure("postgres", "promoted_bytes_total")) / (1 << 20));
  EXPECT_GT(whole.figure("postgres", "promoted_bytes_total"), 1u << 20);
  EXPECT_TRUE(whole.release("postgres"));
  expect_as_found(postgres.pid(), before);
  EXPECT_EQ(postgres.sql(check).out, "0|30000|" + std::to_string(rounds * 3000) + "\n");
  EXPECT_EQ(whole.stop(), 0);
  EXPECT_TRUE(whole.held().empty()) << testing::PrintToString(whole.held());
}

}  // namespace
}  // namespace tidepool::tests
