// SPDX-License-Identifier: Apache-2.0
// A kernel family is a table of variants of one function, fastest first, ending in the reference.
// Each family's kernels.inc holds one line a variant; including it declares, dispatches, binds,
// tests and benchmarks that variant.
#pragma once

#include <cstddef>

#include "base/arch.h"

namespace edgefold {

template <typename Function>
struct Kernel {
  const char* name;
  Isa isa;
  Function* run;

  bool Supported() const { return IsaSupported(isa); }
};

// A family's rows, in the order of its kernels.inc.
template <typename Function>
struct KernelTable {
  const Kernel<Function>* rows;
  size_t size;

  const Kernel<Function>* begin() const { return rows; }
  const Kernel<Function>* end() const { return rows + size; }

  // First row that this CPU runs and that EDGEFOLD_ISA does not forbid.
  const Kernel<Function>& Choose() const {
    for (const Kernel<Function>& row : *this) {
      if (row.isa <= SelectedIsa().isa && row.Supported()) return row;
    }
    return rows[size - 1];
  }
};

}  // namespace edgefold

// kernels.inc names rows with these; EF_KERNEL(isa, symbol) is defined by the one who includes it.
#define EF_REFERENCE_KERNEL(symbol) EF_KERNEL(kReference, symbol)
#if defined(__x86_64__)
#define EF_X86_KERNEL(isa, symbol) EF_KERNEL(isa, symbol)
#else
#define EF_X86_KERNEL(isa, symbol)
#endif
#if defined(__aarch64__)
#define EF_ARM_KERNEL(isa, symbol) EF_KERNEL(isa, symbol)
#else
#define EF_ARM_KERNEL(isa, symbol)
#endif
