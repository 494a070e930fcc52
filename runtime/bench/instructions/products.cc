// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "base/scratch.h"
#include "bench/instructions/cases.h"
#include "kernels/column/column.h"
#include "kernels/conv_sums/conv_sums.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm_float/gemm_float.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemm_wide/gemm_wide.h"
#include "kernels/gemv/gemv.h"
#include "kernels/unpack/unpack.h"
#include "selftest.h"

namespace edgefold::instructions {
namespace {

using selftest::Random;
using selftest::RandomMatrix;
using selftest::RandomRows;
using selftest::Tables;

// The up projection of a MiniLM layer, as far as one task takes it.
constexpr int64_t kDepth = 384;
constexpr int64_t kPanels = 8;
constexpr int64_t kColumns = kPanels * kPanelColumns;
constexpr int64_t kRows = 16;

void Gemv(Random& random) {
  const RandomRows row(random, 1, kDepth, false, false);
  std::vector<int32_t> acc(kColumns);
  const auto count = [&](const char* name, int bits, Tables tables) {
    const RandomMatrix m(random, bits, kDepth, kColumns, tables);
    Count(name, [&] {
      GemvKernels().Choose().run(m.matrix, 0, kPanels, row.activations, acc.data(), kColumns);
    });
  };
  count("gemv 1x384x128 shift 2", 2, Tables::kShift);
  count("gemv 1x384x128 shift 3", 3, Tables::kShift);
  count("gemv 1x384x128 shift 4", 4, Tables::kShift);
  count("gemv 1x384x128 shift-lut 4", 4, Tables::kSymmetric);
  count("gemv 1x384x128 8 bits", 8, Tables::kSingle);
}

void Unpack(Random& random) {
  std::vector<int8_t> panel(kDepth * kPanelColumns);
  const auto count = [&](const char* name, int bits, Tables tables) {
    const RandomMatrix m(random, bits, kDepth, kPanelColumns, tables);
    Count(name,
          [&] { UnpackKernels().Choose().run(m.matrix, 0, 0, kDepth / kUnitDepth, panel.data()); });
  };
  count("unpack 384x16 shift 4", 4, Tables::kShift);
  count("unpack 384x16 shift-lut 4", 4, Tables::kSymmetric);
  count("unpack 384x16 shift-lut 6", 6, Tables::kRandom);
  count("unpack 384x16 8 bits", 8, Tables::kSingle);
}

// Products of int8 rows by decoded panels, and by 4-bit codes of method shift.
void Gemm(Random& random) {
  std::vector<int8_t> panels(kDepth * kColumns);
  for (int8_t& w : panels) w = static_cast<int8_t>(random.Range(-127, 127));
  std::vector<int32_t> acc(kRows * kColumns);
  const RandomRows rows(random, kRows, kDepth, false, false);
  const Activations& a = rows.activations;
  Count("gemm 16x384x128", [&] {
    GemmKernels().Choose().run(a, panels.data(), kPanels, kDepth / kUnitDepth, acc.data(),
                               kColumns);
  });

  const RandomMatrix m(random, 4, kDepth, kColumns, Tables::kShift);
  ArrangedRows arranged = GemmShiftRows(m.matrix, kRows, false);
  const Scratch blocks = AllocateScratch(arranged.Bytes());
  const Scratch scratch = AllocateScratch(GemmShiftScratch(arranged));
  arranged.blocks = blocks.get();
  Count("arrange 16x384", [&] { ArrangeKernels().Choose().run(a, 0, arranged); });
  Count("gemm_shift 16x384x128", [&] {
    GemmShiftKernels().Choose().run(m.matrix, 0, kPanels, arranged, scratch.get(), acc.data(),
                                    kColumns);
  });
  std::vector<int32_t> sums(kRows);
  std::vector<int16_t> pair_sums(kRows * a.groups * 4);
  Count("conv_sums 16x384",
        [&] { ConvSumsKernels().Choose().run(a, sums.data(), pair_sums.data()); });
  std::vector<float> column(kDepth);
  Count("column 384", [&] { DecodeColumn(m.matrix, 5, 0.01f, column.data()); });
}

void GemmFloat(Random& random) {
  std::vector<float> x(kRows * kDepth), y(kRows * kPanelColumns);
  for (float& value : x) value = random.Uniform();
  const std::vector<int8_t> panel(kDepth * kPanelColumns, 3);
  Count("gemm_float 16x384x16", [&] {
    GemmFloatKernels().Choose().run(x.data(), kDepth, kRows, kDepth, panel.data(), y.data(),
                                    kPanelColumns);
  });
}

// A row of windows of the 3x3 convolutions at 32x32 with 16 channels of CIFAR ResNet-20.
void GemmWide() {
  constexpr int64_t kChannels = 16, kPixels = 32, kLine = (kPixels + 2) * kChannels;
  const int64_t offsets[] = {0, kLine, 2 * kLine};
  const std::vector<int16_t> codes(3 * kLine, 7), weights(9 * kChannels * kPanelColumns, -5);
  std::vector<int32_t> acc(kPixels * kPanelColumns);
  const GemmWideArguments g = {codes.data(), kChannels,      kPixels, offsets,    3,
                               24,           weights.data(), 1,       acc.data(), kPanelColumns};
  Count("gemm_wide 32 windows 3x3x16x16", [&] { GemmWideKernels().Choose().run(g); });
}

}  // namespace

void CountProducts() {
  Random random(1);
  Gemv(random);
  Unpack(random);
  Gemm(random);
  GemmFloat(random);
  GemmWide();
}

}  // namespace edgefold::instructions
