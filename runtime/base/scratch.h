// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace edgefold {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

// Uninitialized memory for one call, aligned to 64 bytes; null when there is none.
using Scratch = std::unique_ptr<uint8_t, FreeMemory>;

inline Scratch AllocateScratch(int64_t bytes) {
  const size_t whole = (static_cast<size_t>(bytes) + 127) / 64 * 64;
  return Scratch(static_cast<uint8_t*>(std::aligned_alloc(64, whole)));
}

}  // namespace edgefold
