// SPDX-License-Identifier: Apache-2.0
// Two panels at a time: the first tile of rows decodes them, in pipes that its products leave idle,
// and keeps them for the others. 16 products of a unit take 16 cycles, in which what else it takes,
// loads, decoding and the stores, has room. Signs as in gemm/x86_vnni.cc.
#include "base/unroll.h"
#include "base/x86_vnni_codes.h"
#include "kernels/gemm_packed/gemm_packed.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 8;

// Where the weights of a tile come from. From(u) prepares those from unit u on and gives the unit
// before which it must be called again.
template <int kPanels>
class Decoded {
 public:
  Decoded(const uint8_t* bytes, int64_t units) : bytes_(bytes), units_(units) {}
  int64_t From(int64_t) const { return units_; }
  __m512i At(int64_t u, int panel) const {
    return _mm512_load_si512(bytes_ + (panel * units_ + u) * kUnitCodes);
  }

 private:
  const uint8_t* bytes_;
  int64_t units_;
};

template <int kBits, int kRegisters, int kPanels>
class Decoding {
 public:
  Decoding(const PackedMatrix& matrix, int64_t panel, uint8_t* bytes, int flip)
      : entries_(matrix, flip),
        matrix_(matrix),
        panel_(panel),
        units_(matrix.Units()),
        codes_(matrix.PanelCodes(panel)),
        bytes_(bytes) {}

  int64_t From(int64_t u) {
    Unroll<kPanels>([&](auto p) EF_INLINE {
      offsets_[p] = TableOffsets<kBits>(matrix_.GroupSelectors(panel_ + p, u / kGroupUnits));
    });
    return u + kGroupUnits < units_ ? u + kGroupUnits : units_;
  }

  __m512i At(int64_t u, int panel) const {
    const uint8_t* unit = codes_ + (panel * units_ + u) * 8 * kBits;
    const __m512i weights = LoadWeights<kBits>(entries_, unit, offsets_[panel]);
    __builtin_prefetch(unit + kPanels * units_ * 8 * kBits);  // of the next panels
    _mm512_store_si512(bytes_ + (panel * units_ + u) * kUnitCodes, weights);
    return weights;
  }

 private:
  Entries<kRegisters> entries_;
  const PackedMatrix& matrix_;
  int64_t panel_;
  int64_t units_;
  const uint8_t* codes_;
  uint8_t* bytes_;
  __m512i offsets_[kPanels];
};

// Rows of `g` from `row` on, its columns from `column` on.
template <int kRows, int kPanels, bool kUnsigned, typename Weights>
inline __attribute__((always_inline)) void Tile(const GemmPackedArguments& g, int64_t row,
                                                int64_t column, Weights weights) {
  const uint8_t* rows = g.a.Row(row);
  const int64_t stride = g.a.stride;
  const int64_t units = g.matrix->Units();
  __m512i sums[kRows][kPanels];
  Unroll<kRows>([&](auto r) EF_INLINE {
    Unroll<kPanels>([&](auto p) EF_INLINE { sums[r][p] = _mm512_setzero_si512(); });
  });
  // Each pointer serves four rows, by the addressing modes: there are fewer registers than rows.
  constexpr int kPointers = (kRows + 3) / 4;
  const uint8_t* four[kPointers];
  Unroll<kPointers>([&](auto i) EF_INLINE { four[i] = rows + i * 4 * stride; });
  const int64_t thrice = 3 * stride;
  for (int64_t u = 0; u < units;) {
    for (const int64_t end = weights.From(u); u < end; ++u) {
      __m512i w[kPanels];
      Unroll<kPanels>([&](auto p) EF_INLINE { w[p] = weights.At(u, p); });
      Unroll<kRows>([&](auto r) EF_INLINE {
        const __m512i x = Broadcast(four[r / 4] + (r % 4 == 3 ? thrice : r % 4 * stride));
        Unroll<kPanels>([&](auto p) EF_INLINE {
          sums[r][p] = kUnsigned ? _mm512_dpbusd_epi32(sums[r][p], x, w[p])
                                 : _mm512_dpbusd_epi32(sums[r][p], w[p], x);
        });
      });
      Unroll<kPointers>([&](auto i) EF_INLINE { four[i] += kUnitDepth; });
    }
  }
  Unroll<kPanels>([&](auto p) EF_INLINE {
    const int64_t first = column + p * kPanelColumns;
    const int64_t left = g.columns - first;
    const __mmask16 mask = left >= kPanelColumns ? 0xffff : (1 << left) - 1;
    const __m512 scale = _mm512_maskz_loadu_ps(mask, g.scales + first);
    const __m512 bias =
        g.bias_is_scalar ? _mm512_set1_ps(*g.bias) : _mm512_maskz_loadu_ps(mask, g.bias + first);
    Unroll<kRows>([&](auto r) EF_INLINE {
      const __m512i offset = _mm512_set1_epi32(kUnsigned ? 0 : g.a.sums[row + r] * 128);
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][p], offset));
      const __m512 both = _mm512_mul_ps(_mm512_set1_ps(g.row_scales[row + r]), scale);
      _mm512_mask_storeu_ps(g.y + (row + r) * g.y_stride + first, mask,
                            _mm512_add_ps(_mm512_mul_ps(sum, both), bias));
    });
  });
}

// The first tile of some panels, which decodes them.
template <int kBits, int kRegisters, int kPanels, bool kUnsigned>
void First(const GemmPackedArguments& g, int64_t panel) {
  const Decoding<kBits, kRegisters, kPanels> weights(*g.matrix, g.first_panel + panel, g.decoded,
                                                     kUnsigned ? 0 : 0x80);
  Tile<kTileRows, kPanels, kUnsigned>(g, 0, panel * kPanelColumns, weights);
}

// Decodes for rows too few for First.
template <int kBits, int kRegisters, int kPanels, bool kUnsigned>
void Decode(const GemmPackedArguments& g, int64_t panel) {
  Decoding<kBits, kRegisters, kPanels> weights(*g.matrix, g.first_panel + panel, g.decoded,
                                               kUnsigned ? 0 : 0x80);
  for (int64_t u = 0; u < g.matrix->Units();) {
    for (const int64_t end = weights.From(u); u < end; ++u) {
      Unroll<kPanels>([&](auto p) EF_INLINE { weights.At(u, p); });
    }
  }
}

template <int kRows, int kPanels, bool kUnsigned>
void Other(const GemmPackedArguments& g, int64_t row, int64_t panel) {
  const Decoded<kPanels> weights(g.decoded, g.matrix->Units());
  Tile<kRows, kPanels, kUnsigned>(g, row, panel * kPanelColumns, weights);
}

using FirstFunction = void(const GemmPackedArguments&, int64_t);
using OtherFunction = void(const GemmPackedArguments&, int64_t, int64_t);

template <int kPanels, bool kUnsigned>
FirstFunction* ForMatrix(const PackedMatrix& matrix, bool few) {
  // clang-format off: its versions disagree about these braces
#define EF_BITS(function)                                                                          {                                                                                                  {function<2, 2, kPanels, kUnsigned>, function<3, 2, kPanels, kUnsigned>,                          function<4, 2, kPanels, kUnsigned>, function<5, 2, kPanels, kUnsigned>,                          function<6, 2, kPanels, kUnsigned>, function<7, 2, kPanels, kUnsigned>,                          function<8, 4, kPanels, kUnsigned>},                                                            {nullptr, nullptr, function<4, 4, kPanels, kUnsigned>, function<5, 4, kPanels, kUnsigned>,        function<6, 4, kPanels, kUnsigned>, function<7, 4, kPanels, kUnsigned>,                          function<8, 4, kPanels, kUnsigned>}                                                           }
  // clang-format on
  static constexpr FirstFunction* kFunctions[2][2][7] = {EF_BITS(First), EF_BITS(Decode)};
#undef EF_BITS
  return kFunctions[few][TableRegisters(matrix) > 2][matrix.bits - 2];
}

template <int kPanels, bool kUnsigned>
void Panels(const GemmPackedArguments& g, int64_t panel) {
  static constexpr OtherFunction* kOthers[] = {
      Other<1, kPanels, kUnsigned>, Other<2, kPanels, kUnsigned>, Other<3, kPanels, kUnsigned>,
      Other<4, kPanels, kUnsigned>, Other<5, kPanels, kUnsigned>, Other<6, kPanels, kUnsigned>,
      Other<7, kPanels, kUnsigned>, Other<8, kPanels, kUnsigned>};
  const bool few = g.a.rows < kTileRows;
  ForMatrix<kPanels, kUnsigned>(*g.matrix, few)(g, panel);
  for (int64_t row = few ? 0 : kTileRows; row < g.a.rows; row += kTileRows) {
    const int64_t rows = g.a.rows - row < kTileRows ? g.a.rows - row : kTileRows;
    kOthers[rows - 1](g, row, panel);
  }
}

template <bool kUnsigned>
void All(const GemmPackedArguments& g) {
  const int64_t panels = (g.columns + kPanelColumns - 1) / kPanelColumns;
  int64_t panel = 0;
  for (; panel + 2 <= panels; panel += 2) Panels<2, kUnsigned>(g, panel);
  if (panel < panels) Panels<1, kUnsigned>(g, panel);
}

}  // namespace

void gemm_packed_x86_vnni(const GemmPackedArguments& arguments) {
  const GemmPackedArguments g = arguments;  // stores of floats cannot alias a local copy
  g.a.is_unsigned ? All<true>(g) : All<false>(g);
}

}  // namespace edgefold
