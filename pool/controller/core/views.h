// What can be asked without changing anything, and the answers: status, servers, hosts, VMs, leases, history.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/units.h"
#include "pool/protocol/messages.h"

namespace tidepool::pool::controller {

using protocol::BootId;
using protocol::HolderId;
using protocol::LeaseEpoch;
using protocol::SliceId;

inline constexpr std::size_t kMostPage = 1000;  // entries of one page of a list

enum class ServerState : std::uint8_t { kUp, kSuspect, kLost };
enum class LeaseStatus : std::uint8_t {
  kHeld,
  kOffered,
  kReleasing,  // given back or fenced: nothing of it may be used
  kUnknown,    // there is no such slice, or it is not this holder's
};

// `after`: the `next` of the page before; empty: the first. `limit` 0: kMostPage.
struct Page {
  std::string after;
  std::uint32_t limit = 0;
};

struct GetStatus {};
struct DomainView {
  std::string name;
  std::uint32_t servers = 0;
  Bytes capacity;  // of servers that are not lost
  Bytes leased;
  Bytes free;
  Bytes stranded;  // free, and cannot be paired with another domain
};
struct TenantView {
  std::string name;
  Bytes reservation;
  Bytes limit;  // UINT64_MAX: none
  double weight = 1;
  Bytes held;  // each slice once
  Bytes share;
  std::uint32_t vms = 0;
};
struct StatusAnswer {
  std::string cluster;
  Bytes slice_bytes;
  std::uint32_t replicas = 0;  // that capacity is counted for
  std::uint32_t servers_up = 0;
  std::uint32_t servers_suspect = 0;
  std::uint32_t servers_lost = 0;
  std::uint32_t servers_draining = 0;
  std::uint32_t hosts = 0;
  std::uint32_t hosts_silent = 0;
  std::uint32_t vms = 0;
  Bytes capacity;   // raw, of servers that are not lost
  Bytes leased;     // raw: each replica
  Bytes freeing;    // raw: released, not yet freed by the server
  Bytes free;       // raw
  Bytes stranded;   // raw, of free
  Bytes grantable;  // that could be leased now, each slice once
  Bytes buffer;     // of that, kept ahead
  Bytes wanted;     // by VMs, each page once
  Bytes held;
  Bytes used;
  std::uint64_t slices = 0;
  std::uint64_t offered = 0;
  std::uint64_t releasing = 0;
  std::uint64_t under_replicated = 0;
  std::uint64_t lost_slices = 0;      // no replica is left
  std::uint64_t rebuild_running = 0;  // replicas being copied
  Bytes rebuild_remaining;
  std::uint64_t reclaims_overdue = 0;  // VMs that did not give back in time
  std::vector<DomainView> domains;
  std::vector<TenantView> tenants;
};

struct ListServers {
  Page page;
};
struct ServerView {
  std::string name;
  std::string address;
  std::string domain;
  BootId boot{};
  ServerState state = ServerState::kUp;
  bool draining = false;
  Bytes capacity;
  Bytes leased;
  Bytes freeing;
  Bytes free;           // by the controller's count
  Bytes reported_free;  // by the server's
  std::uint64_t slices = 0;
  std::uint64_t slices_to_move = 0;  // what a drain has before it
  std::uint64_t last_seen_ms = 0;    // ago
};
struct ServersAnswer {
  std::vector<ServerView> servers;
  std::string next;  // empty: the last page
};

struct ListHosts {
  Page page;
};
struct HostView {
  std::string name;
  std::uint64_t epoch = 0;
  Bytes limit;  // UINT64_MAX: none
  double weight = 1;
  Bytes held;
  Bytes spare;
  std::uint32_t vms = 0;
  bool silent = false;
  bool seen = false;  // since this controller began
  std::uint64_t last_seen_ms = 0;
};
struct HostsAnswer {
  std::vector<HostView> hosts;
  std::string next;
};

struct ListVms {
  Page page;
  std::string host;  // empty: of all; as below
  std::string vm;
  std::string tenant;
};
struct VmView {
  std::string host;
  std::string name;
  std::string tenant;
  HolderId holder{};
  bool present = false;  // in its host's last report
  unsigned replicas = 2;
  Bytes reservation;
  Bytes limit;  // UINT64_MAX: none
  double weight = 1;
  Bytes wanted;
  Bytes used;
  Bytes held;  // of all its lives
  Bytes share;
  Bytes give_back;
  bool give_back_overdue = false;
  std::uint64_t slices = 0;
  std::uint64_t under_replicated = 0;
};
struct VmsAnswer {
  std::vector<VmView> vms;
  std::string next;
};

struct ListLeases {
  Page page;
  std::string host;
  std::string vm;
  std::string server;
};
enum class ReplicaStatus : std::uint8_t {
  kInForce,
  kJoining,  // offered, or being copied
  kLeaving,  // goes when another one is in force
  kFreeing,  // the server is told to free it
  kGone,     // its server has begun anew
};
struct ReplicaView {
  std::string server;
  ReplicaStatus status = ReplicaStatus::kInForce;
  LeaseEpoch epoch{};
};
struct LeaseView {
  SliceId slice{};
  std::string host;
  std::string vm;
  HolderId holder{};
  LeaseStatus status = LeaseStatus::kHeld;
  std::vector<ReplicaView> replicas;
};
struct LeasesAnswer {
  std::vector<LeaseView> leases;
  std::string next;
};

// The newest first.
struct ListHistory {
  Page page;
  std::string subject;  // "vm host/name", "server name", "host name", "tenant name"; empty: all
};
struct HistoryEntry {
  std::uint64_t number = 0;
  std::int64_t unix_ms = 0;
  std::string actor;
  std::string event;  // "server-lost", "vm-set", "granted", ...
  std::string subject;
  std::string text;
};
struct HistoryAnswer {
  std::vector<HistoryEntry> entries;
  std::string next;
};

}  // namespace tidepool::pool::controller
