// DAX devices (/dev/daxN.M): memory such as CXL, mapped without a page cache. Source: drivers/dax/bus.c,
// Documentation/ABI/testing/sysfs-bus-dax.
#pragma once

#include "base/result.h"
#include "base/units.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

struct DaxDevice {
  Bytes size;
  Bytes align;  // mappings must start and end on multiples of it
};

// Of an open character device; ENODEV when it is something else.
Result<DaxDevice> inspect_dax_device(const KernelRoots& roots, int fd);

}  // namespace tidepool::kernel
