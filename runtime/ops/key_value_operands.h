// SPDX-License-Identifier: Apache-2.0
// Keys and values of attention as integer products read them: int8 codes with a scale a row.
//
// Of a few queries the products read rows, as they lie in a cache of codes, which costs nothing to
// prepare; of more queries they read panels (gemm.h), made of each head once.
#pragma once

#include "base/activations.h"
#include "base/packed_matrix.h"
#include "base/rounding.h"
#include "base/scratch.h"
#include "kernels/gemm/gemm.h"
#include "kernels/quantize/quantize.h"
#include "kernels/quantize_panels/quantize_panels.h"
#include "kernels/row_dots/row_dots.h"
#include "kernels/row_sums/row_sums.h"
#include "ops/head_rows.h"

namespace edgefold {

// Either floats or, where k is null, codes with scales that are not negative.
struct KeysAndValues {
  const float* k;         // of every head, [keys][depth]
  const float* v;         // of every head, [keys][values]
  const int8_t* k_codes;  // [heads][keys][depth]
  const int8_t* v_codes;  // [heads][keys][values]
  const float* k_scales;  // [heads][keys]
  const float* v_scales;
  int64_t side_by_side = 1;  // heads whose floats lie beside one another in a row
};

struct KeyValueKernels {
  KeyValueKernels();

  QuantizeKernel* quantize;
  QuantizePanelsKernel* quantize_panels;
  GemmKernel* gemm;
  RowDotsKernel* row_dots;
  RowSumsKernel* row_sums;
};

class KeyValueOperands {
 public:
  struct Shape {
    int64_t heads;
    int64_t keys;
    int64_t depth;
    int64_t values;
  };

  // `queries` of each head will be multiplied. Null memory: ok() is false.
  KeyValueOperands(const KeyValueKernels& kernels, const KeysAndValues& kv, const Shape& shape,
                   int64_t queries);
  bool ok() const { return memory_ != nullptr; }

  // Makes the operands of a head; `scale` is multiplied into the scales of its keys. Once for each
  // head, from any thread, before the others are called.
  void Prepare(int64_t head, float scale) const;

  const float* KeyScales(int64_t head) const { return k_scales_ + head * shape_.keys; }
  const float* ValueScales(int64_t head) const { return v_scales_ + head * shape_.keys; }

  // Columns that the results of each product take.
  int64_t KeyColumns(int64_t keys) const { return RoundUp(keys, kPanelColumns); }
  int64_t ValueColumns() const { return RoundUp(shape_.values, kPanelColumns); }

  // acc[m][n] = q[m] . key n, for n < keys; at least one key.
  void DotKeys(int64_t head, const Activations& q, int64_t keys, int32_t* acc,
               int64_t acc_stride) const;
  // acc[m][c] = sum over n < keys of weights[m][n] * value n [c]; at least one key. Weights are
  // unsigned, and zero from `keys` on.
  void SumValues(int64_t head, const Activations& weights, int64_t keys, int32_t* acc,
                 int64_t acc_stride) const;

 private:
  // Codes or panels of one of the two operands, of all heads.
  struct Operand {
    const float* floats;
    HeadRows floats_at;
    const int8_t* codes;  // given
    int8_t* made;
    int64_t columns;
    int64_t bytes;  // of a head that is made
    float* scales;  // made, [heads][keys]
    bool transposed;
  };

  void Make(const Operand& operand, int64_t head) const;
  // Rows of a head, and the step from one to the next.
  const int8_t* Rows(const Operand& operand, int64_t head) const;
  int64_t Stride(const Operand& operand) const;

  const KeyValueKernels& kernels_;
  Shape shape_;
  bool by_rows_;
  Operand keys_;
  Operand values_;
  const float* given_k_scales_;
  float* k_scales_;
  const float* v_scales_;
  Scratch memory_;
};

}  // namespace edgefold
