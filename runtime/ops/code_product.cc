// SPDX-License-Identifier: Apache-2.0
#include "ops/code_product.h"

#include "base/rounding.h"
#include "kernels/unpack/unpack.h"
#include "ops/choose_product.h"

namespace edgefold {
namespace {

int64_t Align(int64_t bytes) { return RoundUp(bytes, 64); }

}  // namespace

CodeProduct::CodeProduct(const PackedMatrix& matrix, bool is_unsigned)
    : matrix_(matrix),
      is_unsigned_(is_unsigned),
      gemm_(GemmKernels().Choose().run),
      arrange_(ArrangeKernels().Choose().run),
      gemm_shift_(ChooseGemmShift(matrix)),
      sum_codes_(is_unsigned ? nullptr : ChooseSums()) {
  if (gemm_shift_ != nullptr) return;
  const int64_t bytes = matrix.Units() * kUnitCodes;
  UnpackKernel* unpack = UnpackKernels().Choose().run;
  panels_.resize(matrix.Panels() * bytes);
  for (int64_t p = 0; p < matrix.Panels(); ++p) {
    unpack(matrix, p, 0, matrix.Units(), panels_.data() + p * bytes);
  }
}

int64_t CodeProduct::ScratchBytes(int64_t rows) const {
  int64_t bytes = Align(rows * kChunkColumns * 4);
  if (gemm_shift_ != nullptr) {
    const ArrangedRows arranged = GemmShiftRows(matrix_, rows, is_unsigned_);
    bytes += Align(GemmShiftScratch(arranged)) + Align(arranged.Bytes());
  } else if (sum_codes_ != nullptr) {
    bytes += Align(rows * (4 + matrix_.Groups() * 8));
  }
  return bytes;
}

CodeProduct::Operands CodeProduct::Prepare(const uint8_t* codes, int64_t rows,
                                           uint8_t* scratch) const {
  Operands o = {};
  o.a = {codes, RowBytes(), rows, is_unsigned_, nullptr, nullptr, matrix_.Groups()};
  o.sums = reinterpret_cast<int32_t*>(scratch);
  scratch += Align(rows * kChunkColumns * 4);
  if (gemm_shift_ != nullptr) {
    o.arranged = GemmShiftRows(matrix_, rows, is_unsigned_);
    o.shift_scratch = scratch;
    o.arranged.blocks = scratch + Align(GemmShiftScratch(o.arranged));
    arrange_(o.a, 0, o.arranged);
  } else if (sum_codes_ != nullptr) {
    int32_t* sums = reinterpret_cast<int32_t*>(scratch);
    int16_t* pair_sums = reinterpret_cast<int16_t*>(sums + rows);
    sum_codes_(o.a, sums, pair_sums);
    o.a.sums = sums;
    o.a.pair_sums = pair_sums;
  }
  return o;
}

void CodeProduct::Chunk(const Operands& o, int64_t first_panel, int64_t panels) const {
  if (gemm_shift_ != nullptr) {
    gemm_shift_(matrix_, first_panel, panels, o.arranged, o.shift_scratch, o.sums, kChunkColumns);
  } else {
    const int8_t* weights = panels_.data() + first_panel * matrix_.Units() * kUnitCodes;
    gemm_(o.a, weights, panels, matrix_.Units(), o.sums, kChunkColumns);
  }
}

}  // namespace edgefold
