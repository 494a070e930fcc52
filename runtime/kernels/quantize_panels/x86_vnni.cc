// SPDX-License-Identifier: Apache-2.0
#include "base/x86_vnni.h"

#include "base/packed_matrix.h"
#include "kernels/quantize_panels/quantize_panels.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;
constexpr int kUnits = kLanes / kUnitDepth;  // of sixteen codes

inline __mmask16 First(int64_t count) {
  return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

float AbsMax(const float* x, int64_t columns) {
  __m512 most = _mm512_setzero_ps();
  for (int64_t n = 0; n < columns; n += kLanes) {
    const __m512 values = _mm512_maskz_loadu_ps(First(columns - n), x + n);
    most = _mm512_max_ps(_mm512_abs_ps(values), most);  // its second operand where one is NaN
  }
  return _mm512_reduce_max_ps(most);
}

// The scales of sixteen rows from `first` on, or of those that are left; 0 beyond them.
__m512 Scales(const QuantizePanelsArguments& q, int64_t first) {
  const int64_t rows = q.rows - first;
  float most[kLanes] = {};
  for (int64_t i = 0; i < kLanes && i < rows; ++i) {
    most[i] = AbsMax(q.x + (first + i) * q.x_stride, q.columns);
  }
  const __m512 largest = _mm512_loadu_ps(most);
  const __mmask16 present = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(1e-30f), _CMP_GT_OQ);
  const __m512 scales = _mm512_maskz_div_ps(present, largest, _mm512_set1_ps(127.0f));
  _mm512_mask_storeu_ps(q.scales + first, First(rows), scales);
  return scales;
}

// Sixteen codes of a row, in the low bytes; of a NaN the least integer, whose low byte is 0.
class ByProduct {
 public:
  explicit ByProduct(__m512 scales) : dividers_(scales) {}
  __m512i Codes(__m512 x, int row) const { return dividers_[row].Round(x); }

 private:
  SixteenDividers dividers_;
};

// Where a scale is beyond the range of Divider, or there is none.
class ByDivision {
 public:
  explicit ByDivision(__m512 scales) {
    const __mmask16 none = _mm512_cmp_ps_mask(scales, _mm512_setzero_ps(), _CMP_EQ_OQ);
    _mm512_storeu_ps(divisors_, _mm512_mask_mov_ps(scales, none, _mm512_set1_ps(__builtin_inff())));
  }
  __m512i Codes(__m512 x, int row) const {
    return _mm512_cvtps_epi32(_mm512_div_ps(x, _mm512_set1_ps(divisors_[row])));
  }

 private:
  float divisors_[kLanes];
};

// Four rows share the units of a panel.
template <typename Quantizer>
void WriteDeep(const QuantizePanelsArguments& q, int64_t first, const Quantizer& quantizer) {
  const int64_t pitch = (q.rows + kUnitDepth - 1) / kUnitDepth * kUnitCodes;
  for (int row = 0; row < kLanes && first + row < q.rows; row += kUnitDepth) {
    int8_t* out = q.panels + (first + row) / kUnitDepth * kUnitCodes;
    for (int64_t n = 0; n < q.columns; n += kPanelColumns, out += pitch) {
      __m512i four = _mm512_setzero_si512();
      for (int i = 0; i < kUnitDepth; ++i) {
        const int64_t k = first + row + i;
        if (k >= q.rows) break;
        const __m512 x = _mm512_maskz_loadu_ps(First(q.columns - n), q.x + k * q.x_stride + n);
        const __m512i byte = _mm512_and_si512(quantizer.Codes(x, row + i), _mm512_set1_epi32(0xff));
        four = _mm512_or_si512(four, _mm512_sllv_epi32(byte, _mm512_set1_epi32(8 * i)));
      }
      _mm512_storeu_si512(out, four);
    }
  }
}

// Each row is a column of the operand; a panel has sixteen.
template <typename Quantizer>
void WriteTransposed(const QuantizePanelsArguments& q, int64_t first, const Quantizer& quantizer) {
  const int64_t units = (q.columns + kUnitDepth - 1) / kUnitDepth;
  int8_t* panel = q.panels + first * units * kUnitDepth;
  for (int row = 0; row < kPanelColumns; ++row) {
    const int64_t k = first + row;
    for (int64_t u = 0; u < units; u += kUnits) {
      const int64_t n = u * kUnitDepth;
      const __mmask16 some = k < q.rows ? First(q.columns - n) : 0;
      const __m512 x = _mm512_maskz_loadu_ps(some, q.x + (some != 0 ? k * q.x_stride + n : 0));
      int8_t codes[kLanes];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes),
                       _mm512_cvtepi32_epi8(quantizer.Codes(x, row)));
      for (int i = 0; i < kUnits && u + i < units; ++i) {
        __builtin_memcpy(panel + (u + i) * kUnitCodes + row * kUnitDepth, codes + i * kUnitDepth,
                         kUnitDepth);
      }
    }
  }
}

template <typename Quantizer>
void Write(const QuantizePanelsArguments& q, int64_t first, const Quantizer& quantizer) {
  q.transposed ? WriteTransposed(q, first, quantizer) : WriteDeep(q, first, quantizer);
}

}  // namespace

// Sixteen rows at a time: rows of attention heads are short, and their divisions are done at once.
void quantize_panels_x86_vnni(const QuantizePanelsArguments& q) {
  for (int64_t first = 0; first < q.rows; first += kLanes) {
    const __m512 scales = Scales(q, first);
    const __mmask16 rows = First(q.rows - first);
    Divider::InRange(scales, rows) == rows ? Write(q, first, ByProduct(scales))
                                           : Write(q, first, ByDivision(scales));
  }
}

}  // namespace edgefold
