// SPDX-License-Identifier: Apache-2.0
// Weights in the order of conv_depthwise: pairs of taps of 16 channels.
#pragma once

#include <cstdint>
#include <vector>

#include "base/packed_matrix.h"

namespace edgefold {

// int16 values of a panel's pairs: [ceil(K / 2)][16][2].
inline int64_t TapPairValues(int64_t k) { return (k + 1) / 2 * 2 * kPanelColumns; }

// Decoded units of a panel [ceil(K / 4)][16][4] as pairs of taps; the last of an odd number is 0.
void PairTaps(const int8_t* units, int64_t k, int16_t* pairs);

// All panels of a matrix, TapPairValues(matrix.k) each.
std::vector<int16_t> TapPairs(const PackedMatrix& matrix);

}  // namespace edgefold
