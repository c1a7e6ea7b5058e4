// Which pool the agent has: an embedded one, memory servers from its configuration, or those of a controller.
#include <algorithm>
#include <filesystem>

#include "daemon/agent/agent_impl.h"
#include "kmod-interfaces/meminfo.h"
#include "pool/client/controlled_pool.h"
#include "pool/client/server_pool.h"
#include "pool/controller/port/controller_port.h"
#include "pool/protocol/key_file.h"
#include "pool/store/direct_file.h"
#include "pool/store/file_store.h"
#include "pool/store/medium.h"
#include "service/config_reader.h"

namespace tidepool::daemon {
namespace {

pool::RemoteStoreOptions remote_options(const Config& config) {
  pool::RemoteStoreOptions store;
  store.capacity = config.servers.capacity;
  store.replicas = config.servers.replicas;
  store.slice = config.servers.slice;
  store.copying = std::make_shared<ByteBudget>(config.servers.copy_bandwidth);
  if (config.servers.codec != PageCodec::kNone)
    store.codec = config.servers.codec == PageCodec::kZstd ? pool::CodecKind::kZstd : pool::CodecKind::kLz4;
  return store;
}

Result<std::string> first_line(const std::filesystem::path& file) {
  auto text = config::read_small_file(file);
  if (!text) return text;
  text->erase(std::min(text->find('\n'), text->size()));
  if (text->empty()) return failure(std::errc::invalid_argument, "read", file.string(), "it is empty");
  return text;
}

// With a key of its own: it is gone with this pool, and what stays on the disk is noise.
Result<pool::RunningStore> file_store(const std::string& path, Bytes capacity) {
  auto secret = pool::VmSecret::create();
  if (!secret) return Failure{secret.error()};
  auto store = pool::create_file_store({.path = path, .capacity = capacity, .secret = std::move(*secret)});
  if (!store) return Failure{store.error()};
  return pool::RunningStore{std::move(*store), nullptr};
}

// Pages come there as they go to servers: sealed.
Result<> add_spill(const Config& config, pool::ServerPoolOptions& options) {
  const std::string& path = config.servers.spill;
  const auto whole = pool::measure_direct(path);
  if (!whole) return Failure{whole.error()};
  options.spill_capacity = config.servers.spill_capacity.resolve(*whole);
  auto store = pool::create_file_store({.path = path, .capacity = options.spill_capacity});
  if (!store) return Failure{store.error()};
  options.spill = std::make_shared<pool::LocalServer>(std::string(kSpillName), std::move(*store));
  return {};
}

}  // namespace

Result<> AgentImpl::open_pool(const Config& config) {
  if (!config.controller.endpoints.empty()) return open_controlled_pool(config);
  if (!config.memory_servers.empty()) return open_server_pool(config);
  const bool on_disk = config.pool.store == StoreKind::kFile;
  const auto whole =
      on_disk ? pool::measure_direct(config.pool.path) : pool::medium_size(config.pool.path, context_.roots);
  if (!whole) return Failure{whole.error()};
  pool::StoreConfig wanted;
  wanted.kind = config.pool.store == StoreKind::kMapped ? pool::StoreChoice::kMapped : pool::StoreChoice::kCompressed;
  wanted.path = config.pool.path;
  wanted.capacity = config.pool.capacity.resolve(*whole);
  wanted.codec = config.pool.codec == Codec::kZstd ? pool::CodecKind::kZstd : pool::CodecKind::kLz4;
  wanted.roots = context_.roots;
  auto store = on_disk ? file_store(wanted.path, wanted.capacity) : pool::create_store(wanted);
  if (!store) return Failure{store.error()};
  const std::string backing = !config.pool.path.empty()                 ? config.pool.path
                              : config.pool.store == StoreKind::kMapped ? "memfd"
                              : config.pool.codec == Codec::kZstd       ? "DRAM (zstd)"
                                                                        : "DRAM (lz4)";
  context_.pool = pool::make_embedded_pool(std::move(*store), backing, *whole);
  return {};
}

Result<> AgentImpl::open_controlled_pool(const Config& config) {
  const Config::Controller& controller = config.controller;
  auto machine = first_line("/etc/machine-id");
  if (!machine) return Failure{machine.error()};
  auto boot = first_line("/proc/sys/kernel/random/boot_id");
  if (!boot) return Failure{boot.error()};
  const auto instance = protocol::fresh_boot_id();
  if (!instance) return Failure{instance.error()};
  auto port = pool::controller::make_http_port(
      controller.endpoints, {controller.certificate, controller.key, controller.authority}, "tidepoold");
  if (!port) return Failure{port.error()};
  pool::ControlledPoolOptions options;
  options.port = std::move(*port);
  options.host = controller.host;
  if (options.host.empty()) {
    auto name = first_line("/proc/sys/kernel/hostname");
    if (!name) return Failure{name.error()};
    options.host = *name;
  }
  options.machine = *machine;
  options.boot = *boot;
  for (const std::uint8_t byte : *instance) {
    options.instance += "0123456789abcdef"[byte >> 4];
    options.instance += "0123456789abcdef"[byte & 15];
  }
  options.store = remote_options(config);
  // What it would have to take if pages had to come home.
  options.spare = [roots = context_.roots, reserve = config.safety.host_reserve] {
    const auto memory = kernel::read_meminfo(roots);
    return memory ? saturating_sub(memory->available, reserve.resolve(memory->total)) : Bytes{};
  };
  context_.pool = pool::make_controlled_pool(std::move(options));
  return {};
}

Result<> AgentImpl::open_server_pool(const Config& config) {
  pool::ServerPoolOptions options;
  for (const MemoryServer& server : config.memory_servers) {
    auto key = protocol::read_key_file(server.key_file);
    if (!key) return Failure{key.error()};
    options.servers.push_back({server.name, server.address, server.failure_domain, static_cast<double>(server.weight),
                               server.capacity, *key});
  }
  options.store = remote_options(config);
  options.store.lost_after = config.servers.lost_after;
  options.store.lease = config.servers.lease;
  if (!config.servers.spill.empty()) {
    if (auto added = add_spill(config, options); !added) return added;
  }
  auto pool = pool::make_server_pool(std::move(options));
  if (!pool) return Failure{pool.error()};
  context_.pool = std::move(*pool);
  return {};
}

}  // namespace tidepool::daemon
