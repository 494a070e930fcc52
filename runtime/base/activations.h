// SPDX-License-Identifier: Apache-2.0
// Quantized rows of a left operand, as every integer kernel reads them.
#pragma once

#include <cstdint>

namespace edgefold {

struct Activations {
  // [rows][stride] bytes: int8 in [-127, 127], or uint8 where is_unsigned. Bytes from K up to the
  // next multiple of 32 exist and are zero; a kernel may read as far as that, never beyond.
  const uint8_t* codes;
  int64_t stride;
  int64_t rows;
  bool is_unsigned;
  // [rows]: sum of a row's codes, for kernels that add 128 to the weights of int8 rows. ShiftConv
  // gives null where the kernel in use does not read it.
  const int32_t* sums;
  // [rows][groups][4], groups = ceil(K / 32): sums of the codes k % 4 < 2 and k % 4 >= 2 of the
  // first and of the second half of each group of 32. Null where is_unsigned.
  const int16_t* pair_sums;
  int64_t groups;

  const uint8_t* Row(int64_t row) const { return codes + row * stride; }
  const int16_t* PairSums(int64_t row) const { return pair_sums + row * groups * 4; }
};

}  // namespace edgefold
