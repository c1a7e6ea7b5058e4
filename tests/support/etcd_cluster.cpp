#include "tests/support/etcd_cluster.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "tests/support/http_get.h"

namespace tidepool::tests {
namespace {

constexpr const char* kProgram = "/usr/bin/etcd";
constexpr std::size_t kMostSaid = 8192;

std::string local_url(int port) {
  return "http://127.0.0.1:" + std::to_string(port);
}

}  // namespace

bool EtcdCluster::installed() {
  return ::access(kProgram, X_OK) == 0;
}

EtcdCluster::EtcdCluster(unsigned members) {
  for (unsigned i = 0; i < members; ++i) {
    members_.push_back({free_port(), free_port(), -1});
    cluster_ += (i > 0 ? ",m" : "m") + std::to_string(i) + "=" + local_url(members_[i].peer_port);
  }
  for (unsigned i = 0; i < members; ++i) start(i, true);
  for (unsigned i = 0; i < members; ++i) {
    if (!await([&] { return healthy(i); })) trouble_ += read_file(folder_ / ("err" + std::to_string(i)));
  }
}

EtcdCluster::~EtcdCluster() {
  for (unsigned i = 0; i < members_.size(); ++i) kill(i);
}

void EtcdCluster::start(unsigned member, bool anew) {
  Member& own = members_[member];
  const std::string number = std::to_string(member);
  own.pid = start_program(
      {kProgram, "--name", "m" + number, "--data-dir", folder_ / number,  //
       "--listen-client-urls", local_url(own.client_port), "--advertise-client-urls", local_url(own.client_port),
       "--listen-peer-urls", local_url(own.peer_port), "--initial-advertise-peer-urls", local_url(own.peer_port),
       "--initial-cluster", cluster_, "--initial-cluster-state", anew ? "new" : "existing",
       // So that leases can be short.
       "--heartbeat-interval", "100", "--election-timeout", "1000"},
      {}, folder_ / ("out" + number), folder_ / ("err" + number));
}

bool EtcdCluster::healthy(unsigned member) const {
  return http_get(members_[member].client_port, "/health").find("\"health\":\"true\"") != std::string::npos;
}

std::string EtcdCluster::said() const {
  std::string all;
  for (unsigned i = 0; i < members_.size(); ++i) {
    const std::string log = read_file(folder_ / ("err" + std::to_string(i)));
    all += "--- m" + std::to_string(i) + "\n" + log.substr(log.size() - std::min(log.size(), kMostSaid));
  }
  return all;
}

std::vector<std::string> EtcdCluster::urls() const {
  std::vector<std::string> urls;
  for (const Member& each : members_) urls.push_back(local_url(each.client_port));
  return urls;
}

void EtcdCluster::signal(unsigned member, int number) {
  if (members_[member].pid > 0) ::kill(members_[member].pid, number);
}

void EtcdCluster::kill(unsigned member) {
  if (members_[member].pid <= 0) return;
  signal(member, SIGKILL);
  await_exit(members_[member].pid);
  members_[member].pid = -1;
}

void EtcdCluster::restart(unsigned member) {
  start(member, false);
  await([&] { return healthy(member); });
}

unsigned EtcdCluster::leading_member() const {
  for (unsigned i = 0; i < members_.size(); ++i) {
    if (members_[i].pid > 0 &&
        metric_value(http_get(members_[i].client_port, "/metrics"), "etcd_server_is_leader") == 1)
      return i;
  }
  return 0;
}

}  // namespace tidepool::tests
