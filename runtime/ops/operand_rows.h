// SPDX-License-Identifier: Apache-2.0
// Quantized rows, and what integer products read beside them, in one piece of memory.
#pragma once

#include <cstring>

#include "base/activations.h"
#include "base/packed_matrix.h"
#include "base/rounding.h"
#include "base/scratch.h"
#include "kernels/quantize/quantize.h"
#include "ops/choose_product.h"

namespace edgefold {

class OperandRows {
 public:
  // Uninitialized; ok() is false where memory could not be had.
  OperandRows(int64_t rows, int64_t k, bool is_unsigned) {
    const int64_t groups = CeilDiv(k, kGroupDepth);
    const int64_t stride = groups * kGroupDepth;
    const bool pairs = !is_unsigned && ReadsPairSums();
    memory_ = AllocateScratch(rows * (stride + 4 + 4 + (pairs ? groups * 8 : 0)));
    codes_ = memory_.get();
    scales_ = reinterpret_cast<float*>(codes_ + rows * stride);
    sums_ = reinterpret_cast<int32_t*>(scales_ + rows);
    pair_sums_ = pairs ? reinterpret_cast<int16_t*>(sums_ + rows) : nullptr;
    all_ = {codes_, stride, rows, is_unsigned, sums_, pair_sums_, groups};
  }

  bool ok() const { return memory_ != nullptr; }

  Activations Rows(int64_t first, int64_t rows) const {
    Activations some = all_;
    some.codes = codes_ + first * all_.stride;
    some.rows = rows;
    some.sums = sums_ + first;
    some.pair_sums = PairSums(first);
    return some;
  }
  uint8_t* Codes(int64_t row) const { return codes_ + row * all_.stride; }
  float* Scales(int64_t first) const { return scales_ + first; }
  int32_t* Sums(int64_t first) const { return sums_ + first; }
  int16_t* PairSums(int64_t first) const {
    return pair_sums_ == nullptr ? nullptr : pair_sums_ + first * all_.groups * 4;
  }

  // Where a quantizer is to put its rows: here, from row `first` on.
  void Receive(int64_t first, QuantizeArguments* q) const {
    q->codes = Codes(first);
    q->stride = all_.stride;
    q->row_scales = Scales(first);
    q->sums = Sums(first);
    q->pair_sums = PairSums(first);
  }

  void CopyRow(int64_t from, int64_t to) const {
    std::memcpy(Codes(to), Codes(from), static_cast<size_t>(all_.stride));
    scales_[to] = scales_[from];
    sums_[to] = sums_[from];
    if (pair_sums_ == nullptr) return;
    std::memcpy(PairSums(to), PairSums(from), static_cast<size_t>(all_.groups) * 8);
  }

 private:
  Scratch memory_;
  uint8_t* codes_;
  float* scales_;
  int32_t* sums_;
  int16_t* pair_sums_;
  Activations all_;
};

}  // namespace edgefold
