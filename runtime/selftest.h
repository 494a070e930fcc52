// SPDX-License-Identifier: Apache-2.0
// What a family's test.cc needs: random cases, guarded outputs, and a tally per variant.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/activations.h"
#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold::selftest {

// Replayable (xorshift64*).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u | 1) {}
  uint32_t Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint32_t>(state_ * 0x2545f4914f6cdd1du >> 32);
  }
  int Range(int low, int high) {
    return low + static_cast<int>(Next() % static_cast<uint32_t>(high - low + 1));
  }
  float Uniform() { return static_cast<float>(Next() >> 8) * 0x1p-23f - 1.0f; }

 private:
  uint64_t state_;
};

// `size` elements between canary bytes, at an address that is aligned to the element only.
template <typename Element>
class Guarded {
 public:
  explicit Guarded(int64_t size) : size_(size), bytes_(size * sizeof(Element) + 2 * kGuard, 0xa5) {}
  Element* data() { return reinterpret_cast<Element*>(bytes_.data() + kGuard); }
  bool Intact() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (bytes_[i] != 0xa5 || bytes_[bytes_.size() - 1 - i] != 0xa5) return false;
    }
    return true;
  }
  bool Equals(const Guarded& other) const {
    return Intact() && other.Intact() && bytes_ == other.bytes_;
  }

 private:
  static constexpr size_t kGuard = 64 + sizeof(Element);
  int64_t size_;
  std::vector<uint8_t> bytes_;
};

// Results of one variant.
struct Tally {
  const char* name;
  bool supported;
  int passed = 0;
  int failed = 0;

  // Prints the first failures in full; a reader needs no more.
  void Check(bool right, const char* where) {
    right ? ++passed : ++failed;
    if (!right && failed <= 5) std::printf("FAIL %s: %s\n", name, where);
  }
};

template <typename Function>
std::vector<Tally> Tallies(const KernelTable<Function>& table) {
  std::vector<Tally> tallies;
  for (const Kernel<Function>& row : table) tallies.push_back({row.name, row.Supported()});
  return tallies;
}

// kShapes16, kShapes32: small factors times two shapes of levels up to 16 or 32.
enum class Tables { kRandom, kExtreme, kSymmetric, kShift, kSingle, kShapes16, kShapes32 };
inline constexpr Tables kAllTables[] = {Tables::kRandom,  Tables::kExtreme, Tables::kSymmetric,
                                        Tables::kShift,   Tables::kSingle,  Tables::kShapes16,
                                        Tables::kShapes32};

// A packed matrix with random codes (padding too: its value must not matter) and its storage, each
// array of exactly the size the contract states, so that a sanitizer sees any read beyond it.
struct RandomMatrix {
  RandomMatrix(Random& random, int bits, int64_t k, int64_t n, Tables tables);
  RandomMatrix(const RandomMatrix&) = delete;

  std::vector<uint8_t> codes;
  std::vector<uint8_t> selectors;
  std::vector<int8_t> table;
  PackedMatrix matrix = {};
};

// Random quantized rows, padded with zeros to whole groups. `extreme` uses only the largest codes,
// in the first two of three rows one of them.
struct RandomRows {
  RandomRows(Random& random, int64_t rows, int64_t k, bool is_unsigned, bool extreme);
  RandomRows(const RandomRows&) = delete;

  std::vector<uint8_t> codes;
  std::vector<int32_t> sums;
  std::vector<int16_t> pair_sums;
  Activations activations = {};
};

}  // namespace edgefold::selftest
