// Far pages in this host's own DRAM, compressed: what makes a host without other memory gain any. Pages that would save
// too little are refused (kIncompressible) and stay where they are.
//
// A location names an entry of a table, the entry says where the compressed bytes are; so maintain() can move them
// together and give memory back while readers go on undisturbed. Table and bytes live in files that can be held and
// taken over (docs/layout.md). Bookkeeping per page: 16 bytes of table, 4 of owner, and its share of a slab's header:
// less than 24 in all.
#pragma once

#include <memory>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/kernel_roots.h"
#include "pool/store/codec.h"
#include "pool/store/embedded_store.h"

namespace tidepool::pool {

struct CompressedStoreOptions {
  // Most that compressed pages and all bookkeeping may take. Zero is an error.
  Bytes capacity{};
  // How far set_capacity may go; address space only. Zero: as far as the host's memory.
  Bytes maximum{};
  CodecKind codec = CodecKind::kLz4;
  int level = 0;  // as for Codec::create
  // A page that does not save at least this share of itself is incompressible; 0.16 to 0.95.
  double least_saving = 0.25;
  kernel::KernelRoots roots{};
};

Result<std::unique_ptr<EmbeddedStore>> create_compressed_store(const CompressedStoreOptions& options);

// Takes over what another process left; as for open_mapped_store. The codec is the one that the pages were written
// with, and options.codec must say the same; options.maximum does not count.
Result<std::unique_ptr<EmbeddedStore>> open_compressed_store(UniqueFd data, UniqueFd table,
                                                             const CompressedStoreOptions& options);

}  // namespace tidepool::pool
