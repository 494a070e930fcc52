// SPDX-License-Identifier: Apache-2.0
// Speed of every kernel variant on real layer shapes, one thread: `build/bench_kernels [K N]`.
// Prints GOP/s (two operations a multiply-add) of the best of many calls.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/scratch.h"
#include "kernels/conv_quantize/conv_quantize.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemm_wide/gemm_wide.h"
#include "kernels/gemm_windows/gemm_windows.h"
#include "kernels/gemv/gemv.h"
#include "kernels/l1_norm/l1_norm.h"
#include "kernels/l2_norm/l2_norm.h"
#include "kernels/quantize/quantize.h"
#include "kernels/unpack/unpack.h"

namespace edgefold {
namespace {

// Seconds of one call, best of as many as fit into 50 ms.
template <typename Body>
double Best(const Body& body) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  const auto begin = Clock::now();
  do {
    const auto start = Clock::now();
    body();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds < best) best = seconds;
  } while (std::chrono::duration<double>(Clock::now() - begin).count() < 0.05);
  return best;
}

struct Problem {
  std::vector<uint8_t> codes, selectors, activations;
  std::vector<int8_t> table, panel;
  std::vector<int16_t> pair_sums;
  std::vector<int32_t> sums, acc;
  PackedMatrix matrix = {};
  Activations a = {};

  // Tables of `shift`, or two shapes of eight magnitudes like those of `shift-lut`.
  Problem(int64_t k, int64_t n, int64_t rows, bool shift) {
    const int64_t panels = n / 16;
    const int64_t groups = k / 32;
    codes.resize(panels * k / 4 * 32);
    selectors.resize(panels * groups * 8);
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(std::rand());
    table.resize(5 * 16);
    for (int t = 0; t < 5; ++t) {
      for (int c = 0; c < 16; ++c) {
        const int level = (c == 0 ? 1 : c) - 8;
        const int learnt = 2 * (2 * c - 15) + (t % 2) * (c < 8 ? 5 : -5);
        table[t * 16 + c] = static_cast<int8_t>(shift ? level * (1 << t) : learnt * (t / 2 + 1));
      }
    }
    for (uint8_t& byte : selectors) byte = std::rand() % 5 | std::rand() % 5 << 4;
    activations.resize(rows * k);
    for (uint8_t& byte : activations) byte = static_cast<uint8_t>(std::rand() % 255 - 127);
    pair_sums.resize(rows * groups * 4);
    sums.resize(rows);
    acc.resize(rows * n);
    panel.resize(k * 16);
    matrix = {codes.data(), selectors.data(), table.data(), k, n, 4, 5, false, 0, 0, {}, {}, false};
    DetectStructure(&matrix);
    a = {activations.data(), k, rows, false, sums.data(), pair_sums.data(), groups};
  }
};

void Report(const char* name, int64_t rows, double operations, double seconds) {
  std::printf("%-22s rows %4lld %9.1f us %7.1f GOP/s\n", name, static_cast<long long>(rows),
              seconds * 1e6, operations / seconds * 1e-9);
}

void Run(int64_t k, int64_t n) {
  for (int64_t rows : {1, 4, 16, 64}) {
    Problem table(k, n, rows, false);
    Problem shift(k, n, rows, true);
    const double all = 2.0 * rows * k * n;
    const double panel = 2.0 * rows * k * 16;
    for (const auto& kernel : GemvKernels()) {
      if (!kernel.Supported() || rows > 4 || kernel.isa == Isa::kReference) continue;
      for (Problem* p : {&table, &shift}) {
        Report(kernel.name, rows, all,
               Best([&] { kernel.run(p->matrix, 0, n / 16, p->a, p->acc.data(), n); }));
      }
    }
    for (const auto& kernel : GemmKernels()) {
      if (!kernel.Supported() || kernel.isa == Isa::kReference) continue;
      for (bool is_unsigned : {false, true}) {
        table.a.is_unsigned = is_unsigned;
        Report(kernel.name, rows, panel, Best([&] {
                 kernel.run(table.a, table.panel.data(), 1, k / 4, table.acc.data(), 16);
               }));
      }
      table.a.is_unsigned = false;
    }
    for (const auto& kernel : GemmWideKernels()) {
      if (!kernel.Supported() || kernel.isa == Isa::kReference) continue;
      const std::vector<int16_t> codes(rows * k), weights(k * 16);
      const int64_t start = 0;
      const GemmWideArguments g = {codes.data(),     k, rows, &start, 1, k / 2, weights.data(), 1,
                                   table.acc.data(), 16};
      Report(kernel.name, rows, panel, Best([&] { kernel.run(g); }));
    }
    for (const auto& kernel : GemmWindowsKernels()) {
      if (!kernel.Supported() || kernel.isa == Isa::kReference) continue;
      const std::vector<int8_t> weights(4 * k * 16);
      const std::vector<int32_t> totals(4 * 16);
      std::vector<int32_t> sums(rows * 64);
      const int64_t start = 0;
      for (bool is_unsigned : {false, true}) {
        const GemmWindowsArguments g = {
            table.activations.data(), is_unsigned,   k, rows, &start,      1, k / 4,
            weights.data(),           totals.data(), 4, 64,   sums.data(), 64};
        Report(kernel.name, rows, panel * 4, Best([&] { kernel.run(g); }));
      }
    }
    for (const auto& kernel : GemmShiftKernels()) {
      if (!kernel.Supported() || kernel.isa == Isa::kReference) continue;
      for (Problem* p : {&table, &shift}) {
        ArrangedRows arranged = GemmShiftRows(p->matrix, rows, false);
        const Scratch blocks = AllocateScratch(arranged.Bytes());
        const Scratch scratch = AllocateScratch(GemmShiftScratch(arranged));
        arranged.blocks = blocks.get();
        ArrangeKernels().Choose().run(p->a, 0, arranged);
        Report(kernel.name, rows, panel * 8, Best([&] {
                 kernel.run(p->matrix, 0, 8, arranged, scratch.get(), p->acc.data(), 128);
               }));
      }
    }
    for (const auto& kernel : UnpackKernels()) {
      if (!kernel.Supported() || kernel.isa == Isa::kReference) continue;
      for (Problem* p : {&table, &shift}) {
        Report(kernel.name, 1, 2.0 * k * 16,
               Best([&] { kernel.run(p->matrix, 0, 0, k / 4, p->panel.data()); }));
      }
    }
  }
}

// Both quantizers, without and with channel shifts: 64 rows of k values.
void RunQuantizers(int64_t k) {
  constexpr int64_t kRows = 64;
  const int64_t stride = (k + 31) / 32 * 32;
  std::vector<float> x(kRows * k);
  for (float& value : x) value = static_cast<float>(std::rand() % 2000 - 1000) * 0.01f;
  std::vector<float> steps(stride);
  for (float& step : steps) step = static_cast<float>(1 << std::rand() % 5);
  std::vector<uint8_t> codes(kRows * stride);
  std::vector<float> scales(kRows);
  std::vector<int32_t> sums(kRows);
  std::vector<int16_t> pair_sums(kRows * stride / 8);
  const double values = static_cast<double>(kRows * k);
  for (const float* shift :
       {static_cast<const float*>(nullptr), static_cast<const float*>(steps.data())}) {
    for (float scale : {0.0f, 0.1f}) {
      for (const auto& kernel : QuantizeKernels()) {
        if (!kernel.Supported() || kernel.isa == Isa::kReference) continue;
        const QuantizeArguments q = {
            x.data(),     k,      kRows,         k,           shift,           scale, -7, 7,
            codes.data(), stride, scales.data(), sums.data(), pair_sums.data()};
        std::printf("%s, %s: ", shift == nullptr ? "no shifts" : "shifts",
                    scale == 0.0f ? "dynamic" : "static");
        Report(kernel.name, kRows, values, Best([&] { kernel.run(q); }));
      }
    }
    for (const auto& kernel : ConvQuantizeKernels()) {
      if (!kernel.Supported() || kernel.isa == Isa::kReference) continue;
      const ConvQuantizeArguments q = {x.data(), kRows, k,  kRows,        shift,
                                       0.1f,     0,     15, codes.data(), stride};
      std::printf("%s: ", shift == nullptr ? "no shifts" : "shifts");
      Report(kernel.name, kRows, values, Best([&] { kernel.run(q); }));
    }
  }
}

// Both norms, to floats and to codes: 128 rows of `columns` values. An operation is a value.
void RunNorms(int64_t columns) {
  constexpr int64_t kRows = 128;
  std::vector<float> x(kRows * columns), y(kRows * columns), gamma(columns), beta(columns);
  for (float& value : x) value = static_cast<float>(std::rand() % 2000 - 1000) * 0.003f;
  for (float& value : gamma) value = static_cast<float>(std::rand() % 1000) * 0.03f;
  std::vector<int8_t> codes(kRows * columns);
  std::vector<int16_t> scratch(columns);
  const double values = static_cast<double>(kRows * columns);
  for (bool to_codes : {false, true}) {
    for (const KernelTable<L1NormKernel>& table : {L1NormKernels(), L2NormKernels()}) {
      for (const auto& kernel : table) {
        if (!kernel.Supported() || kernel.isa == Isa::kReference) continue;
        const L1NormArguments n = {x.data(),
                                   nullptr,
                                   kRows,
                                   columns,
                                   true,
                                   1e-3f,
                                   gamma.data(),
                                   beta.data(),
                                   nullptr,
                                   127.0f,
                                   to_codes ? nullptr : y.data(),
                                   codes.data(),
                                   scratch.data()};
        std::printf("to %s, %lld columns: ", to_codes ? "codes" : "float",
                    static_cast<long long>(columns));
        Report(kernel.name, kRows, values, Best([&] { kernel.run(n); }));
      }
    }
  }
}

}  // namespace
}  // namespace edgefold

int main(int argc, char** argv) {
  for (int64_t columns : {384, 768}) edgefold::RunNorms(columns);
  edgefold::RunQuantizers(argc > 2 ? std::atoll(argv[1]) : 768);
  edgefold::Run(argc > 2 ? std::atoll(argv[1]) : 768, argc > 2 ? std::atoll(argv[2]) : 3072);
  return 0;
}
