// SPDX-License-Identifier: Apache-2.0
// The loops of `peak` over the registers of one instruction set, which gives
//
//   struct Isa {
//     static constexpr int kBytes;                             of a register
//     static constexpr int kIntegerOperations;                 of one Multiply
//     using Floats, Integers, Bytes;                           registers; Zero-initializable
//     static Floats Fma(Floats a, Floats b, Floats sum);
//     static Integers Multiply(Bytes a, Bytes b, Integers sum);
//     static Bytes Load(const uint8_t* at);
//     static Bytes Or(Bytes a, Bytes b);
//   };
#pragma once

#include "kernels/peak/peak.h"

namespace edgefold {

// Enough independent sums to hide the latency of a multiplication on two pipes.
inline constexpr int kPeakSums = 12;

// Keeps the compiler from computing a value once for all turns, or not at all.
template <typename Register>
inline void Renew(Register& value) {
#if defined(__x86_64__)
  asm volatile("" : "+x"(value));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(value));
#else
  asm volatile("" : "+m"(value));
#endif
}

template <typename Isa>
uint64_t PeakFloats(int64_t times) {
  typename Isa::Floats a = {}, sums[kPeakSums] = {};
  for (int64_t turn = 0; turn < times; ++turn) {
    for (auto& sum : sums) {
      sum = Isa::Fma(a, a, sum);
      Renew(sum);
    }
  }
  return static_cast<uint64_t>(times) * kPeakSums * (Isa::kBytes / 4) * 2;
}

template <typename Isa>
uint64_t PeakIntegers(int64_t times) {
  typename Isa::Bytes a = {}, b = {};
  typename Isa::Integers sums[kPeakSums] = {};
  for (int64_t turn = 0; turn < times; ++turn) {
    Renew(a);
    for (auto& sum : sums) {
      Renew(b);
      sum = Isa::Multiply(a, b, sum);
      Renew(sum);
    }
  }
  return static_cast<uint64_t>(times) * kPeakSums * Isa::kIntegerOperations;
}

template <typename Isa>
uint64_t PeakReads(int64_t times, const uint8_t* buffer, int64_t bytes) {
  constexpr int kLoads = 8;
  typename Isa::Bytes seen[kLoads] = {};
  for (int64_t turn = 0; turn < times; ++turn) {
    for (int64_t at = 0; at < bytes; at += kLoads * Isa::kBytes) {
      for (int i = 0; i < kLoads; ++i) {
        seen[i] = Isa::Or(seen[i], Isa::Load(buffer + at + i * Isa::kBytes));
      }
    }
    for (auto& one : seen) Renew(one);
  }
  return static_cast<uint64_t>(times) * static_cast<uint64_t>(bytes);
}

template <typename Isa>
uint64_t Peak(PeakLoop loop, int64_t times, const uint8_t* buffer, int64_t bytes) {
  static_assert(kPeakBlock % (8 * Isa::kBytes) == 0, "a turn of loads must end with the block");
  switch (loop) {
    case PeakLoop::kFloat:
      return PeakFloats<Isa>(times);
    case PeakLoop::kInteger:
      return PeakIntegers<Isa>(times);
    case PeakLoop::kRead:
      return PeakReads<Isa>(times, buffer, bytes);
  }
  return 0;
}

}  // namespace edgefold
