// SPDX-License-Identifier: Apache-2.0
// Rows to levels and levels to results, whatever they are divided by: for the norms' x86_avx2.cc.
#pragma once

#include <immintrin.h>

#include "kernels/l1_norm/elements.h"

namespace edgefold {
namespace {

// Sixteen columns a step. The levels of a step lie in pairs, (0, 8), (1, 9) ... (7, 15), so that
// the two halves of a 32-bit lane belong to two vectors of eight: no shuffle takes them apart.
constexpr int64_t kStep = 16;
constexpr int kPackedOrder = 0xd8;  // of packs: 0..3, 8..11, 4..7, 12..15

inline __m256i LoadLevels(const int16_t* levels) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(levels));
}

inline void AddPairs(__m256i lanes, __m256i* sums) {
  *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(lanes, _mm256_set1_epi16(1)));
}

inline int32_t Total(__m256i eight) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_srli_si128(four, 8));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_srli_si128(four, 4)));
}

float AbsMax(const float* x, int64_t columns) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 first = _mm256_setzero_ps();
  __m256 second = first;
  int64_t i = 0;
  for (; i + kStep <= columns; i += kStep) {
    // max returns its second operand where one is NaN.
    first = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + i), magnitude), first);
    second = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + i + 8), magnitude), second);
  }
  const __m256 eight = _mm256_max_ps(first, second);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  float most = _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
  for (; i < columns; ++i) most = LargerMagnitude(x[i], most);
  return most;
}

struct FloatLevels {
  const float* x;
  __m256 factor;

  __m256i At(int64_t i) const {
    const __m256i first = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
    const __m256i second = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), factor));
    // NaN has become the least int32, whose lower half is 0.
    return _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
  }
};

struct ByteLevels {
  const int8_t* x;

  __m256i At(int64_t i) const {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
    const __m128i pairs = _mm_unpacklo_epi8(bytes, _mm_srli_si128(bytes, 8));
    return _mm256_slli_epi16(_mm256_cvtepi8_epi16(pairs), 7);
  }
};

// Fills the scratch row, shows its levels to the statistics, and returns their sum.
template <typename Levels, typename Statistics>
int32_t Fill(const L1NormArguments& n, int64_t m, int64_t whole, const Levels& levels, float factor,
             Statistics* statistics) {
  __m256i sums = _mm256_setzero_si256();
  for (int64_t i = 0; i < whole; i += 2 * kStep) {
    const __m256i first = levels.At(i);
    const __m256i second = levels.At(i + kStep);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(n.scratch + i), first);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(n.scratch + i + kStep), second);
    AddPairs(first, &sums);
    AddPairs(second, &sums);
    statistics->Add(first, second);
  }
  int32_t sum = Total(sums);
  for (int64_t i = whole; i < n.columns; ++i) {
    n.scratch[i] = Level(n, m, i, factor);
    sum += n.scratch[i];
    statistics->Add(n.scratch[i]);
  }
  return sum;
}

// Holds what Write reads in its loop by value: bytes that it stores might alias the arguments.
struct Affine {
  const float* gamma;
  const float* beta;
  __m256 scale;
  __m256i centre;

  // Eight differences as int32 to eight floats, from column i.
  __m256 Eight(__m256i d, int64_t i) const {
    const __m256 factor = _mm256_mul_ps(scale, _mm256_loadu_ps(gamma + i));
    const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(d), factor);
    return _mm256_add_ps(product, _mm256_loadu_ps(beta + i));
  }

  // Sixteen, from levels in pairs.
  void Sixteen(const int16_t* levels, int64_t i, __m256* first, __m256* second) const {
    const __m256i d = _mm256_sub_epi16(LoadLevels(levels + i), centre);
    *first = Eight(_mm256_madd_epi16(d, _mm256_set1_epi32(1)), i);
    *second = Eight(_mm256_srai_epi32(d, 16), i + 8);
  }
};

// From floats to codes; `steps` is null where all are 1.
struct Codes {
  const int16_t* steps;
  __m256i high;

  // Sixteen words in packed order, saturated to int16. No float here exceeds int32.
  __m256i Words(__m256 first, __m256 second, int64_t i) const {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(first), _mm256_cvtps_epi32(second));
    if (steps == nullptr) return words;
    const __m256i step = _mm256_permute4x64_epi64(LoadLevels(steps + i), kPackedOrder);
    const __m256i most = _mm256_unpacklo_epi8(high, _mm256_setzero_si256());
    const __m256i least = _mm256_sub_epi16(_mm256_setzero_si256(), most);
    return _mm256_mullo_epi16(_mm256_max_epi16(_mm256_min_epi16(words, most), least), step);
  }

  // 32 bytes in order.
  __m256i Bytes(__m256i first, __m256i second) const {
    __m256i bytes = _mm256_packs_epi16(first, second);
    if (steps == nullptr) {
      const __m256i low = _mm256_sub_epi8(_mm256_setzero_si256(), high);
      bytes = _mm256_max_epi8(_mm256_min_epi8(bytes, high), low);
    }
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
};

void WriteFloats(const L1NormArguments& n, const Affine& affine, int64_t whole, float* y) {
  for (int64_t i = 0; i < whole; i += kStep) {
    __m256 first, second;
    affine.Sixteen(n.scratch, i, &first, &second);
    _mm256_storeu_ps(y + i, first);
    _mm256_storeu_ps(y + i + 8, second);
  }
}

void WriteCodes(const L1NormArguments& n, Affine affine, int64_t whole, int8_t* y) {
  const Codes codes = {n.steps, _mm256_set1_epi8(static_cast<int8_t>(n.high))};
  const int16_t* levels = n.scratch;
  for (int64_t i = 0; i < whole; i += 2 * kStep) {
    __m256 part[4];
    affine.Sixteen(levels, i, &part[0], &part[1]);
    affine.Sixteen(levels, i + kStep, &part[2], &part[3]);
    const __m256i bytes =
        codes.Bytes(codes.Words(part[0], part[1], i), codes.Words(part[2], part[3], i + kStep));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i), bytes);
  }
}

// The scratch row holds levels in pairs up to `whole`, a multiple of 32, then in order.
void Write(const L1NormArguments& n, int64_t m, int64_t whole, int32_t mean, float scale) {
  const Affine affine = {n.gamma, n.beta, _mm256_set1_ps(scale),
                         _mm256_set1_epi16(static_cast<int16_t>(mean))};
  if (n.y != nullptr) {
    WriteFloats(n, affine, whole, n.y + m * n.columns);
  } else {
    WriteCodes(n, affine, whole, n.y_codes + m * n.columns);
  }
  for (int64_t i = whole; i < n.columns; ++i) Store(n, m, i, n.scratch[i] - mean, scale);
}

// The factor of row m; beyond the last row, any.
float RowFactor(const L1NormArguments& n, int64_t m) {
  if (n.x == nullptr || m == n.rows) return kL1NormByteFactor;
  return Factor(AbsMax(n.x + m * n.columns, n.columns));
}

// `Statistics` sees a row's levels as they are made, and Scale(n, whole, sum, mean, factor) is what
// the row is multiplied by; the scratch row holds it then.
template <typename Statistics>
void NormalizeRows(const L1NormArguments& n) {
  const int64_t whole = n.columns / (2 * kStep) * (2 * kStep);
  float factor = RowFactor(n, 0);
  for (int64_t m = 0; m < n.rows; ++m) {
    const int64_t at = m * n.columns;
    Statistics statistics;
    const int32_t sum =
        n.x == nullptr
            ? Fill(n, m, whole, ByteLevels{n.x_codes + at}, factor, &statistics)
            : Fill(n, m, whole, FloatLevels{n.x + at, _mm256_set1_ps(factor)}, factor, &statistics);
    const int32_t mean = Mean(n, sum);
    const float scale = statistics.Scale(n, whole, sum, mean, factor);
    // The next row's largest value is sought while the divisions of this row's scale are under way.
    factor = RowFactor(n, m + 1);
    Write(n, m, whole, mean, scale);
  }
}

}  // namespace
}  // namespace edgefold
