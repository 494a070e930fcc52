// SPDX-License-Identifier: Apache-2.0
#include "base/x86_vnni.h"

#include "base/unroll.h"
#include "kernels/quantize/quantize.h"

namespace edgefold {
namespace {

constexpr int kBlock = 64;     // channels whose codes fill a register
constexpr int kTogether = 16;  // rows

// Sixteen of the floats at x, zeros where fewer are left.
template <bool kAll>
inline EF_INLINE __m512 Load(const float* x, int64_t left) {
  if (kAll || left >= 16) return _mm512_loadu_ps(x);
  return _mm512_maskz_loadu_ps(left <= 0 ? 0 : (1u << left) - 1, x);
}

// 1 / step for powers of two: exponents of a number and its reciprocal add up to twice the bias.
inline __m512 Reciprocal(__m512 step) {
  return _mm512_castsi512_ps(
      _mm512_sub_epi32(_mm512_set1_epi32(254 << 23), _mm512_castps_si512(step)));
}

// What one register of channels adds to the largest magnitude.
template <bool kStepped, bool kAll>
inline EF_INLINE __m512 Larger(const QuantizeArguments& q, const float* x, int64_t k, __m512 most) {
  __m512 value = _mm512_abs_ps(Load<kAll>(x + k, q.columns - k));
  if (kStepped) value = _mm512_mul_ps(value, Reciprocal(_mm512_loadu_ps(q.steps + k)));
  return _mm512_max_ps(value, most);  // its second operand where one is NaN
}

template <bool kStepped>
float AbsMax(const QuantizeArguments& q, const float* x) {
  __m512 most[4] = {};
  int64_t k = 0;
  for (; k + kBlock <= q.columns; k += kBlock) {
    Unroll<4>([&](auto i)
                  EF_INLINE { most[i] = Larger<kStepped, true>(q, x, k + i * 16, most[i]); });
  }
  for (; k < q.columns; k += 16) most[0] = Larger<kStepped, false>(q, x, k, most[0]);
  return _mm512_reduce_max_ps(
      _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3])));
}

template <bool kStepped, bool kSigned>
class Quantizer {
 public:
  Quantizer(const QuantizeArguments& q, float scale, const Divider& divider)
      : q_(q),
        divider_(divider),
        high_(_mm512_set1_ps(static_cast<float>(q.high) * scale)),
        low_(_mm512_set1_epi32(q.low)),
        low_bytes_(_mm512_set1_epi8(static_cast<char>(q.low))) {}

  // The operands of 16 * kSixteens channels from k on, of which `left` exist.
  template <int kSixteens, bool kAll>
  inline EF_INLINE __m512i Block(const float* x, int64_t k, int64_t left) const {
    __m512i codes[4] = {};
    Unroll<kSixteens>([&](auto i) EF_INLINE {
      codes[i] = Sixteen<kAll>(x + k + i * 16, k + i * 16, left - i * 16);
    });
    const __m512i first = _mm512_packs_epi32(codes[0], codes[1]);
    const __m512i second = _mm512_packs_epi32(codes[2], codes[3]);
    __m512i bytes =
        kSigned ? _mm512_packs_epi16(first, second) : _mm512_packus_epi16(first, second);
    if constexpr (kSigned && !kStepped) bytes = _mm512_max_epi8(bytes, low_bytes_);
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes);
  }

 private:
  // As int32; less than `low` there is what is too small or not a number, unless kStepped.
  template <bool kAll>
  inline EF_INLINE __m512i Sixteen(const float* x, int64_t k, int64_t left) const {
    const __m512 values = Load<kAll>(x, left);
    // The smaller one; a NaN stays, and becomes less than every code.
    if constexpr (!kStepped) return divider_.Round(_mm512_min_ps(high_, values));
    const __m512 step = _mm512_loadu_ps(q_.steps + k);
    const __m512 scaled = _mm512_mul_ps(values, Reciprocal(step));
    const __m512i codes = divider_.Round(_mm512_min_ps(high_, scaled));
    return _mm512_mullo_epi32(_mm512_max_epi32(codes, low_), _mm512_cvtps_epi32(step));
  }

  const QuantizeArguments& q_;
  Divider divider_;
  __m512 high_;
  __m512i low_, low_bytes_;
};

// Of each half group: its codes k % 4 < 2, and the others.
void PairSums(const int8_t* codes, int64_t stride, int16_t* pair_sums) {
  for (int64_t half = 0; half < stride; half += 16, pair_sums += 2) {
    pair_sums[0] = pair_sums[1] = 0;
    for (int k = 0; k < 16; ++k) pair_sums[k % 4 / 2] += codes[half + k];
  }
}

template <bool kStepped, bool kSigned>
void Row(const QuantizeArguments& q, int64_t m, float scale, const Divider& divider) {
  const Quantizer<kStepped, kSigned> quantizer(q, scale, divider);
  const float* x = q.x + m * q.x_stride;
  uint8_t* out = q.codes + m * q.stride;
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums = _mm512_setzero_si512();
  const auto add = [&](__m512i bytes) EF_INLINE {
    sums =
        kSigned ? _mm512_dpbusd_epi32(sums, ones, bytes) : _mm512_dpbusd_epi32(sums, bytes, ones);
  };
  int64_t k = 0;
  for (; k + kBlock <= q.columns; k += kBlock) {
    const __m512i bytes = quantizer.template Block<4, true>(x, k, kBlock);
    _mm512_storeu_si512(out + k, bytes);
    add(bytes);
  }
  const int64_t left = q.columns - k;
  if (q.stride - k == kBlock) {
    const __m512i bytes = quantizer.template Block<4, false>(x, k, left);
    _mm512_storeu_si512(out + k, bytes);
    add(bytes);
  } else if (k < q.stride) {
    const __m512i bytes = quantizer.template Block<2, false>(x, k, left);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), _mm512_castsi512_si256(bytes));
    add(bytes);
  }
  q.sums[m] = _mm512_reduce_add_epi32(sums);
  if (q.pair_sums == nullptr) return;
  PairSums(reinterpret_cast<const int8_t*>(out), q.stride, q.pair_sums + m * (q.stride / 8));
}

// A row whose scale is out of Divider's range, or that has none.
void DividedRow(QuantizeArguments q, int64_t m) {
  q.x += m * q.x_stride;
  q.rows = 1;
  q.codes += m * q.stride;
  q.row_scales += m;
  q.sums += m;
  if (q.pair_sums != nullptr) q.pair_sums += m * (q.stride / 8);
  quantize_x86_avx2(q);
}

template <bool kStepped>
__m512 Scales(const QuantizeArguments& q, int64_t first, int rows) {
  if (q.static_scale != 0.0f) return _mm512_set1_ps(q.static_scale);
  float most[kTogether] = {};
  for (int i = 0; i < rows; ++i) most[i] = AbsMax<kStepped>(q, q.x + (first + i) * q.x_stride);
  return _mm512_div_ps(_mm512_loadu_ps(most), _mm512_set1_ps(static_cast<float>(q.high)));
}

// Sixteen at a time, whose divisions are done at once.
template <bool kStepped, bool kSigned>
void Rows(const QuantizeArguments& q) {
  for (int64_t first = 0; first < q.rows; first += kTogether) {
    const int rows = static_cast<int>(q.rows - first < kTogether ? q.rows - first : kTogether);
    const __m512 scales = Scales<kStepped>(q, first, rows);
    float each[kTogether];
    _mm512_storeu_ps(each, scales);
    const SixteenDividers dividers(scales);
    const __mmask16 in_range = Divider::InRange(scales, static_cast<__mmask16>((1u << rows) - 1));
    for (int i = 0; i < rows; ++i) {
      if ((in_range >> i & 1) == 0) {
        DividedRow(q, first + i);
        continue;
      }
      q.row_scales[first + i] = each[i];
      Row<kStepped, kSigned>(q, first + i, each[i], dividers[i]);
    }
  }
}

}  // namespace

void quantize_x86_vnni(const QuantizeArguments& q) {
  if (q.steps == nullptr) return q.low < 0 ? Rows<false, true>(q) : Rows<false, false>(q);
  q.low < 0 ? Rows<true, true>(q) : Rows<true, false>(q);
}

}  // namespace edgefold
