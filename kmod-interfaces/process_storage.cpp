#include "kmod-interfaces/process_storage.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>

#include "kmod-interfaces/proc_text.h"

namespace tidepool::kernel {
namespace {

using namespace std::string_view_literals;

constexpr std::array kNetworkTypes{"nfs"sv,      "nfs4"sv,      "cifs"sv, "smb3"sv,     "ceph"sv,   "9p"sv,
                                   "virtiofs"sv, "afs"sv,       "gfs2"sv, "ocfs2"sv,    "lustre"sv, "gpfs"sv,
                                   "beegfs"sv,   "glusterfs"sv, "coda"sv, "orangefs"sv, "pvfs2"sv};
constexpr std::array kMemoryTypes{"tmpfs"sv, "ramfs"sv, "hugetlbfs"sv};
// Parts of a block device's place in sysfs that say that the disk is somewhere else: iSCSI, NVMe over fabrics, Fibre
// Channel, nbd, rbd, drbd.
constexpr std::array kRemoteDevices{"/session"sv,   "/nvme-fabrics/"sv, "/rport-"sv, "/block/nbd"sv,
                                    "/block/rbd"sv, "/block/drbd"sv,    "/rbd/"sv};

std::string device_name(DeviceNumber device) {
  return std::to_string(device.major) + ":" + std::to_string(device.minor);
}

// The block device that a descriptor is itself, not the one its file is stored on.
std::optional<DeviceNumber> opened_device(const Process& process, const DescriptorInfo& descriptor) {
  if (!descriptor.target.starts_with("/dev/")) return std::nullopt;
  struct stat info {};
  const std::string link = "fd/" + std::to_string(descriptor.number);
  if (::fstatat(process.directory(), link.c_str(), &info, 0) != 0 || !S_ISBLK(info.st_mode)) return std::nullopt;
  return DeviceNumber{major(info.st_rdev), minor(info.st_rdev)};
}

}  // namespace

StorageSpeed block_device_speed(const KernelRoots& roots, DeviceNumber device) {
  const std::string folder = roots.sys + "/dev/block/" + device_name(device);
  const auto place = read_link_at(AT_FDCWD, folder, folder);
  if (place) {
    const auto remote = [&](std::string_view part) { return place->find(part) != std::string::npos; };
    if (std::ranges::any_of(kRemoteDevices, remote)) return StorageSpeed::network;
  }
  // A partition has no queue; its disk, the folder around it, has.
  auto rotational = read_number(folder + "/queue/rotational");
  if (!rotational && place) {
    const std::size_t slash = place->rfind('/');
    if (slash != std::string::npos && exists(folder + "/partition"))
      rotational = read_number(roots.sys + "/dev/block/" + place->substr(0, slash) + "/queue/rotational");
  }
  if (!rotational) return StorageSpeed::unknown;
  return *rotational == 0 ? StorageSpeed::fast : StorageSpeed::rotational;
}

Storage storage_of(const KernelRoots& roots, const Process& process, const DescriptorInfo& descriptor,
                   std::span<const Mount> mounts) {
  if (descriptor.kind == DescriptorKind::memfd) return {StorageSpeed::fast, "memory"};
  if (const auto device = opened_device(process, descriptor))
    return {block_device_speed(roots, *device), "block device " + device_name(*device)};
  const auto mount = std::ranges::find_if(mounts, [&](const Mount& m) { return m.id == descriptor.mount_id; });
  if (descriptor.mount_id == 0 || mount == mounts.end()) return {StorageSpeed::unknown, "a mount of another namespace"};
  const std::string_view type = mount->type;
  const std::string what = printable(type, 32) + (mount->source.empty() ? "" : " on " + printable(mount->source, 64));
  if (std::ranges::find(kMemoryTypes, type) != kMemoryTypes.end()) return {StorageSpeed::fast, what};
  if (std::ranges::find(kNetworkTypes, type) != kNetworkTypes.end() || type.starts_with("fuse"))
    return {StorageSpeed::network, what};
  // Major 0: the filesystem manages devices by itself (btrfs, zfs, overlay), and does not say which holds this file.
  if (mount->device.major == 0) return {StorageSpeed::unknown, what};
  return {block_device_speed(roots, mount->device), what};
}

}  // namespace tidepool::kernel
