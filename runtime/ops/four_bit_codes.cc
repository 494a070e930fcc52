// SPDX-License-Identifier: Apache-2.0
#include "ops/four_bit_codes.h"

#include <cstring>

namespace edgefold {
namespace {

using Bytes = uint8_t __attribute__((vector_size(16)));
constexpr int64_t kBytes = sizeof(Bytes);
constexpr uint8_t kLower = 15;
constexpr uint8_t kSign = 8;

inline Bytes Load(const uint8_t* values) {
  Bytes bytes;
  std::memcpy(&bytes, values, sizeof bytes);
  return bytes;
}

inline void Store(Bytes bytes, uint8_t* values) { std::memcpy(values, &bytes, sizeof bytes); }

// Subtracting the sign bit after it was turned over repeats it in the bits above.
template <bool is_unsigned, typename Codes>
inline Codes Extend(Codes codes) {
  return is_unsigned ? codes : static_cast<Codes>((codes ^ kSign) - kSign);
}

template <bool is_unsigned>
void Unpack(const uint8_t* packed, int64_t count, uint8_t* codes) {
  int64_t i = 0;
  for (; i + 2 * kBytes <= count; i += 2 * kBytes) {
    const Bytes pairs = Load(packed + i / 2);
    const Bytes low = Extend<is_unsigned>(pairs & kLower);
    const Bytes high = Extend<is_unsigned>(pairs >> 4);
    Store(
        __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
        codes + i);
    Store(__builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                  15, 31),
          codes + i + kBytes);
  }
  for (; i < count; i += 2) {
    const uint8_t pair = packed[i / 2];
    codes[i] = Extend<is_unsigned>(static_cast<uint8_t>(pair & kLower));
    codes[i + 1] = Extend<is_unsigned>(static_cast<uint8_t>(pair >> 4));
  }
}

}  // namespace

void UnpackCodes(const uint8_t* packed, int64_t count, bool is_unsigned, uint8_t* codes) {
  if (is_unsigned) return Unpack<true>(packed, count, codes);
  Unpack<false>(packed, count, codes);
}

void PackCodes(const uint8_t* codes, int64_t count, uint8_t* packed) {
  int64_t i = 0;
  for (; i + 2 * kBytes <= count; i += 2 * kBytes) {
    const Bytes first = Load(codes + i);
    const Bytes second = Load(codes + i + kBytes);
    const Bytes even = __builtin_shufflevector(first, second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20,
                                               22, 24, 26, 28, 30);
    const Bytes odd = __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21,
                                              23, 25, 27, 29, 31);
    Store((even & kLower) | odd << 4, packed + i / 2);
  }
  for (; i < count; i += 2) {
    packed[i / 2] = static_cast<uint8_t>((codes[i] & kLower) | codes[i + 1] << 4);
  }
}

}  // namespace edgefold
