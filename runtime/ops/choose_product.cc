// SPDX-License-Identifier: Apache-2.0
#include "ops/choose_product.h"

#include "kernels/gemm/gemm.h"

namespace edgefold {

namespace {

// The chosen row of a family that stands in for gemm where both are of one instruction set.
template <typename Function>
Function* ChooseBeside(const KernelTable<GemmKernel>& gemm, const KernelTable<Function>& table) {
  const Kernel<Function>& row = table.Choose();
  return row.isa != Isa::kReference && row.isa == gemm.Choose().isa ? row.run : nullptr;
}

}  // namespace

GemmPackedKernel* ChooseGemmPacked() { return ChooseBeside(GemmKernels(), GemmPackedKernels()); }

GemmShiftKernel* ChooseGemmShift(const PackedMatrix& matrix) {
  return GemmShiftApplies(matrix) ? ChooseBeside(GemmKernels(), GemmShiftKernels()) : nullptr;
}

GemmWideKernel* ChooseGemmWide() { return ChooseBeside(GemmKernels(), GemmWideKernels()); }

GemmWindowsKernel* ChooseGemmWindows() { return ChooseBeside(GemmKernels(), GemmWindowsKernels()); }

ConvSumsKernel* ChooseSums() {
  const bool read = GemmKernels().Choose().isa == Isa::kVnni;
  return read ? ConvSumsKernels().Choose().run : nullptr;
}

bool ReadsPairSums() { return GemmKernels().Choose().isa != Isa::kVnni; }

}  // namespace edgefold
