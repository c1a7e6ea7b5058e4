// etcd's own members, started for one test on loopback ports of their own and ended with it.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/program.h"

namespace tidepool::tests {

class EtcdCluster {
 public:
  static bool installed();

  // Answers when this returns; see ready().
  explicit EtcdCluster(unsigned members = 1);
  ~EtcdCluster();
  EtcdCluster(const EtcdCluster&) = delete;
  EtcdCluster& operator=(const EtcdCluster&) = delete;

  // Empty: it answers. Otherwise what the members said.
  const std::string& trouble() const { return trouble_; }
  std::vector<std::string> urls() const;
  // The end of every member's log.
  std::string said() const;
  void signal(unsigned member, int number);
  void kill(unsigned member);     // -9, and gone when this returns
  void restart(unsigned member);  // with what it had
  // Of the member that leads the cluster.
  unsigned leading_member() const;

 private:
  struct Member {
    int client_port = 0;
    int peer_port = 0;
    pid_t pid = -1;
  };
  void start(unsigned member, bool anew);
  bool healthy(unsigned member) const;

  TestFolder folder_;
  std::vector<Member> members_;
  std::string cluster_;
  std::string trouble_;
};

}  // namespace tidepool::tests
