// How fast the storage behind a descriptor answers. A device that writes into memory (O_DIRECT) holds the page for as
// long as one request takes; the slower the storage, the later it may still write.
#pragma once

#include <span>
#include <string>

#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/process.h"

namespace tidepool::kernel {

enum class StorageSpeed : std::uint8_t {
  fast,        // memory or a local device without moving parts
  rotational,  // the device says so; virtual disks do too, since nobody knows what is behind them
  network,     // may take arbitrarily long
  unknown,
};

struct Storage {
  StorageSpeed speed = StorageSpeed::unknown;
  std::string what;  // "ext4 on /dev/vda", "nfs4", "block device 8:0"
};

// `mounts` are the process's own. Only descriptors of block devices are asked by stat(2), which cannot hang: a file is
// found by its mount.
Storage storage_of(const KernelRoots& roots, const Process& process, const DescriptorInfo& descriptor,
                   std::span<const Mount> mounts);
// Of a block device. Source: Documentation/ABI/stable/sysfs-block.
StorageSpeed block_device_speed(const KernelRoots& roots, DeviceNumber device);

}  // namespace tidepool::kernel
