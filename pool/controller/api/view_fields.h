// As fields.h: questions and what is shown to people.
#pragma once

#include "pool/controller/api/fields.h"

namespace tidepool::pool::controller {

template <class Io>
void describe_page(Io& io, Page& x) {
  io.query("after", x.after);
  io.query("limit", x.limit);
}
template <class Io>
void describe(Io&, GetStatus&) {}
template <class Io>
void describe(Io& io, ListServers& x) {
  describe_page(io, x.page);
}
template <class Io>
void describe(Io& io, ListHosts& x) {
  describe_page(io, x.page);
}
template <class Io>
void describe(Io& io, ListVms& x) {
  describe_page(io, x.page);
  io.query("host", x.host);
  io.query("vm", x.vm);
  io.query("tenant", x.tenant);
}
template <class Io>
void describe(Io& io, ListLeases& x) {
  describe_page(io, x.page);
  io.query("host", x.host);
  io.query("vm", x.vm);
  io.query("server", x.server);
}
template <class Io>
void describe(Io& io, ListHistory& x) {
  describe_page(io, x.page);
  io.query("subject", x.subject);
}

template <class Io>
void describe(Io& io, DomainView& x) {
  io.need("name", x.name);
  io.need("servers", x.servers);
  io.need("capacity_bytes", x.capacity);
  io.need("leased_bytes", x.leased);
  io.need("free_bytes", x.free);
  io.need("stranded_bytes", x.stranded);
}
template <class Io>
void describe(Io& io, TenantView& x) {
  io.need("name", x.name);
  io.need("reservation_bytes", x.reservation);
  io.limit("limit_bytes", x.limit);
  io.need("weight", x.weight);
  io.need("held_bytes", x.held);
  io.need("share_bytes", x.share);
  io.need("vms", x.vms);
}
template <class Io>
void describe(Io& io, StatusAnswer& x) {
  io.need("cluster", x.cluster);
  io.need("slice_bytes", x.slice_bytes);
  io.need("replicas", x.replicas);
  io.need("servers_up", x.servers_up);
  io.need("servers_suspect", x.servers_suspect);
  io.need("servers_lost", x.servers_lost);
  io.need("servers_draining", x.servers_draining);
  io.need("hosts", x.hosts);
  io.need("hosts_silent", x.hosts_silent);
  io.need("vms", x.vms);
  io.need("capacity_bytes", x.capacity);
  io.need("leased_bytes", x.leased);
  io.need("freeing_bytes", x.freeing);
  io.need("free_bytes", x.free);
  io.need("stranded_bytes", x.stranded);
  io.need("grantable_bytes", x.grantable);
  io.need("buffer_bytes", x.buffer);
  io.need("wanted_bytes", x.wanted);
  io.need("held_bytes", x.held);
  io.need("used_bytes", x.used);
  io.need("slices", x.slices);
  io.need("offered_slices", x.offered);
  io.need("releasing_slices", x.releasing);
  io.need("under_replicated_slices", x.under_replicated);
  io.need("lost_slices", x.lost_slices);
  io.need("rebuild_running", x.rebuild_running);
  io.need("rebuild_remaining_bytes", x.rebuild_remaining);
  io.need("reclaims_overdue", x.reclaims_overdue);
  io.need("domains", x.domains, kAnyNumber);
  io.need("tenants", x.tenants, kAnyNumber);
}
template <class Io>
void describe(Io& io, ServerView& x) {
  io.need("name", x.name);
  io.need("address", x.address);
  io.need("domain", x.domain);
  io.need("boot", x.boot);
  io.need("state", x.state);
  io.need("draining", x.draining);
  io.need("capacity_bytes", x.capacity);
  io.need("leased_bytes", x.leased);
  io.need("freeing_bytes", x.freeing);
  io.need("free_bytes", x.free);
  io.need("reported_free_bytes", x.reported_free);
  io.need("slices", x.slices);
  io.need("slices_to_move", x.slices_to_move);
  io.need("last_seen_ms", x.last_seen_ms);
}
template <class Io>
void describe(Io& io, ServersAnswer& x) {
  io.need("items", x.servers, kAnyNumber);
  io.need("next", x.next);
}
template <class Io>
void describe(Io& io, HostView& x) {
  io.need("name", x.name);
  io.need("epoch", x.epoch);
  io.limit("limit_bytes", x.limit);
  io.need("weight", x.weight);
  io.need("held_bytes", x.held);
  io.need("spare_bytes", x.spare);
  io.need("vms", x.vms);
  io.need("silent", x.silent);
  io.need("seen", x.seen);
  io.need("last_seen_ms", x.last_seen_ms);
}
template <class Io>
void describe(Io& io, HostsAnswer& x) {
  io.need("items", x.hosts, kAnyNumber);
  io.need("next", x.next);
}
template <class Io>
void describe(Io& io, VmView& x) {
  io.need("host", x.host);
  io.need("name", x.name);
  io.need("tenant", x.tenant);
  io.need("holder", x.holder);
  io.need("present", x.present);
  io.need("replicas", x.replicas);
  io.need("reservation_bytes", x.reservation);
  io.limit("limit_bytes", x.limit);
  io.need("weight", x.weight);
  io.need("wanted_bytes", x.wanted);
  io.need("used_bytes", x.used);
  io.need("held_bytes", x.held);
  io.need("share_bytes", x.share);
  io.need("give_back_bytes", x.give_back);
  io.need("give_back_overdue", x.give_back_overdue);
  io.need("slices", x.slices);
  io.need("under_replicated_slices", x.under_replicated);
}
template <class Io>
void describe(Io& io, VmsAnswer& x) {
  io.need("items", x.vms, kAnyNumber);
  io.need("next", x.next);
}
template <class Io>
void describe(Io& io, ReplicaView& x) {
  io.need("server", x.server);
  io.need("status", x.status);
  io.need("epoch", x.epoch);
}
template <class Io>
void describe(Io& io, LeaseView& x) {
  io.need("slice", x.slice);
  io.need("host", x.host);
  io.need("vm", x.vm);
  io.need("holder", x.holder);
  io.need("status", x.status);
  io.need("replicas", x.replicas, kAnyNumber);
}
template <class Io>
void describe(Io& io, LeasesAnswer& x) {
  io.need("items", x.leases, kAnyNumber);
  io.need("next", x.next);
}
template <class Io>
void describe(Io& io, HistoryEntry& x) {
  io.need("number", x.number);
  io.need("unix_ms", x.unix_ms);
  io.need("actor", x.actor);
  io.need("event", x.event);
  io.need("subject", x.subject);
  io.need("text", x.text);
}
template <class Io>
void describe(Io& io, HistoryAnswer& x) {
  io.need("items", x.entries, kAnyNumber);
  io.need("next", x.next);
}

}  // namespace tidepool::pool::controller
