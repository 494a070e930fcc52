// SPDX-License-Identifier: Apache-2.0
// Random convolutions, and the clock, for benches of blocks. One thread.
#pragma once

#include <cstdlib>
#include <ctime>
#include <vector>

#include "base/parallel.h"
#include "ops/conv_stage.h"

namespace edgefold::bench {

inline constexpr CodeRange kSigned = {-127, 127};
inline constexpr CodeRange kUnsigned = {0, 255};
inline constexpr Activation kNoActivation = {ActivationKind::kClip, -1e30f, 1e30f};

struct Weights {
  std::vector<uint8_t> codes, selectors;
  std::vector<int8_t> table;
  std::vector<float> scales, bias;
  PackedMatrix matrix = {};

  // Of method `shift` where bits < 8.
  Weights(int64_t k, int64_t n, int bits) {
    matrix.k = k;
    matrix.n = n;
    matrix.bits = bits;
    matrix.tables = 9 - bits;
    codes.resize(matrix.Panels() * matrix.Units() * matrix.UnitBytes());
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(std::rand());
    selectors.resize(matrix.Panels() * matrix.Groups() * 8);
    for (uint8_t& byte : selectors) {
      byte = static_cast<uint8_t>(std::rand() % matrix.tables | std::rand() % matrix.tables << 4);
    }
    const int half = 1 << (bits - 1);
    for (int t = 0; t < matrix.tables; ++t) {
      for (int c = 0; c < 2 * half; ++c) {
        table.push_back(static_cast<int8_t>(((c == 0 ? 1 : c) - half) * (1 << t)));
      }
    }
    matrix.codes = codes.data();
    matrix.selectors = selectors.data();
    matrix.table = table.data();
    DetectStructure(&matrix);
    scales.assign(n, 0.001f);
    bias.assign(n, 0.1f);
  }
};

inline ConvStage StageOf(const Weights& weights, int64_t in_channels, int64_t kernel,
                         int64_t stride, int64_t group, CodeRange x, Activation activation,
                         CodeRange y) {
  const int64_t pad = kernel / 2;
  ConvStage stage = {};
  stage.matrix = weights.matrix;
  stage.scales = weights.scales.data();
  stage.attributes = {{1, kernel, kernel}, {1, stride, stride}, {0, pad, pad},
                      {0, pad, pad},       {1, 1, 1},           group,
                      in_channels,         weights.matrix.n};
  stage.x = {x.low, x.high, true, {}};
  stage.activation = activation;
  stage.residual_is_unsigned = false;
  stage.y = y;
  return stage;
}

// Of this thread's processor time: what else runs on the machine does not count.
inline double Now() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Seconds of the best calls, taken in turn so that a slow moment of the machine hits all alike.
template <typename... Bodies>
void BestOf(double* best, const Bodies&... bodies) {
  for (size_t i = 0; i < sizeof...(bodies); ++i) best[i] = 1e9;
  const double begin = Now();
  for (int round = 0; round < 8 || Now() - begin < 0.4; ++round) {
    double* out = best;
    const auto time = [&](const auto& body) {
      const double start = Now();
      body();
      const double seconds = Now() - start;
      if (seconds < *out) *out = seconds;
      ++out;
    };
    (time(bodies), ...);
  }
}

inline constexpr Parallel kOneThread = {
    [](void*, void (*task)(void*, size_t), size_t total, void* user) {
      for (size_t i = 0; i < total; ++i) task(user, i);
    },
    nullptr};

}  // namespace edgefold::bench
