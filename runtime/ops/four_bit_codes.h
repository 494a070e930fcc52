// SPDX-License-Identifier: Apache-2.0
// Codes of four bits as ONNX stores uint4 and int4: two a byte, the first one in its lower half.
#pragma once

#include <cstdint>

namespace edgefold {

// The least and the largest of such codes.
inline constexpr int32_t kFourBitLow = -8;
inline constexpr int32_t kFourBitHigh = 7;
inline constexpr int32_t kFourBitUnsignedHigh = 15;

// `count` codes, an even number, to a byte each: 0..15, or -8..7.
void UnpackCodes(const uint8_t* packed, int64_t count, bool is_unsigned, uint8_t* codes);

// The other way: of bytes of that range, signed or not.
void PackCodes(const uint8_t* codes, int64_t count, uint8_t* packed);

}  // namespace edgefold
