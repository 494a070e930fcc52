// SPDX-License-Identifier: Apache-2.0
#include "ops/attention.h"

#include <algorithm>

#include "ops/test/stage_cases.h"

namespace edgefold::selftest {
namespace {

// How a mask is stored; what it lacks it has once for all.
enum class Mask { kNone, kWhole, kOneRow, kOneColumn };

// Inputs and their storage.
struct AttentionCase {
  AttentionCase(Random& random, const AttentionShape& shape, bool causal, Mask kind)
      : q(shape.QueryHeads() * shape.rows * shape.depth),
        k(shape.heads * shape.keys * shape.depth),
        v(shape.heads * shape.keys * shape.values),
        mask(shape.QueryHeads() * shape.rows * shape.keys + 1),
        offsets(shape.QueryHeads()) {
    for (std::vector<float>* all : {&q, &k, &v, &mask}) {
      for (float& value : *all) value = random.Uniform() * 2.0f;
    }
    const bool is_whole = kind == Mask::kWhole;
    for (int64_t h = 0; h < shape.QueryHeads(); ++h) {
      offsets[h] = is_whole ? h * shape.rows * shape.keys : 0;
    }
    inputs.shape = shape;
    inputs.q = q.data();
    inputs.kv.k = k.data();
    inputs.kv.v = v.data();
    inputs.scale = 0.3f;
    inputs.causal = causal;
    inputs.mask = kind == Mask::kNone ? nullptr : mask.data();
    inputs.mask_head_offsets = offsets.data();
    inputs.mask_row_stride = is_whole ? shape.keys : kind == Mask::kOneColumn ? 1 : 0;
    inputs.mask_key_stride = kind == Mask::kOneColumn ? 0 : 1;
  }
  AttentionCase(const AttentionCase&) = delete;

  std::vector<float> q, k, v, mask;
  std::vector<int64_t> offsets;
  AttentionInputs inputs = {};
};

// A row as int8 with its scale.
struct Codes {
  Codes(const float* x, int64_t columns) : codes(columns + kGroupDepth) {
    const int64_t stride = (columns + kGroupDepth - 1) / kGroupDepth * kGroupDepth;
    int32_t sum = 0;
    QuantizeArguments q = {};
    q.x = x;
    q.rows = 1;
    q.columns = columns;
    q.low = -127;
    q.high = 127;
    q.codes = reinterpret_cast<uint8_t*>(codes.data());
    q.stride = stride;
    q.row_scales = &scale;
    q.sums = &sum;
    quantize_reference(q);
  }

  std::vector<int8_t> codes;
  float scale = 0.0f;
};

// A cache of codes of the keys or values of all heads.
struct Cache {
  Cache(const float* x, int64_t rows, int64_t columns) {
    for (int64_t n = 0; n < rows; ++n) {
      const Codes row(x + n * columns, columns);
      codes.insert(codes.end(), row.codes.begin(), row.codes.begin() + columns);
      scales.push_back(row.scale);
    }
  }

  std::vector<int8_t> codes;
  std::vector<float> scales;
};

// The values of a head, each position with its scale.
std::vector<Codes> ValuesOf(const AttentionInputs& in, int64_t head) {
  const AttentionShape& shape = in.shape;
  std::vector<Codes> values;
  for (int64_t n = 0; n < shape.keys; ++n) {
    const int64_t at = head / shape.group * shape.keys + n;
    values.emplace_back(in.kv.v + at * shape.values, shape.values);
  }
  return values;
}

// The weights of one query over the keys that it sees, and what one of them stands for.
std::vector<uint8_t> Weights(const AttentionInputs& in, const std::vector<Codes>& values,
                             int64_t head, int64_t row, float* step) {
  const AttentionShape& shape = in.shape;
  const int64_t before = in.causal ? shape.keys - shape.rows + row + 1 : shape.keys;
  const int64_t seen = std::clamp<int64_t>(before, 0, shape.keys);
  const Codes query(in.q + (head * shape.rows + row) * shape.depth, shape.depth);
  std::vector<float> scores(seen);
  for (int64_t n = 0; n < seen; ++n) {
    const int64_t at = head / shape.group * shape.keys + n;
    const Codes key(in.kv.k + at * shape.depth, shape.depth);
    int32_t sum = 0;
    for (int64_t d = 0; d < shape.depth; ++d) sum += query.codes[d] * key.codes[d];
    scores[n] = static_cast<float>(sum) * (query.scale * (key.scale * in.scale));
    if (in.mask != nullptr) {
      const int64_t at = row * in.mask_row_stride + n * in.mask_key_stride;
      scores[n] += in.mask[in.mask_head_offsets[head] + at];
    }
  }
  std::vector<float> factors;
  for (const Codes& value : values) factors.push_back(value.scale);
  std::vector<uint8_t> codes(shape.keys);
  softmax_reference({scores.data(), seen, 1, seen, factors.data(), codes.data(), shape.keys, step});
  return codes;
}

void DefinedAttention(const AttentionInputs& in, float* y) {
  const AttentionShape& shape = in.shape;
  for (int64_t head = 0; head < shape.QueryHeads(); ++head) {
    const std::vector<Codes> values = ValuesOf(in, head);
    for (int64_t row = 0; row < shape.rows; ++row) {
      float step = 0.0f;
      const std::vector<uint8_t> weights = Weights(in, values, head, row, &step);
      for (int64_t c = 0; c < shape.values; ++c) {
        int32_t sum = 0;
        for (int64_t n = 0; n < shape.keys; ++n) sum += weights[n] * values[n].codes[c];
        *y++ = static_cast<float>(sum) * step + 0.0f;
      }
    }
  }
}

// Rows of heads where `at` puts them.
std::vector<float> Joined(const float* split, const HeadRows& at, int64_t heads) {
  std::vector<float> joined(heads * at.rows * at.columns);
  for (int64_t head = 0; head < heads; ++head) {
    float* row = joined.data() + at.Offset(head);
    for (int64_t m = 0; m < at.rows; ++m, row += at.Stride()) {
      for (int64_t c = 0; c < at.columns; ++c) row[c] = *split++;
    }
  }
  return joined;
}

// All of it with the heads of `samples` side by side: nothing but the places changes.
void JoinedCase(const AttentionCase& c, int64_t samples, const float* split, Tally& tally) {
  const AttentionShape& shape = c.inputs.shape;
  const int64_t q_heads = shape.QueryHeads() / samples;
  const int64_t kv_heads = shape.heads / samples;
  const HeadRows k_at = {shape.keys, shape.depth, kv_heads};
  const HeadRows v_at = {shape.keys, shape.values, kv_heads};
  const HeadRows y_at = {shape.rows, shape.values, q_heads};
  const auto q = Joined(c.q.data(), {shape.rows, shape.depth, q_heads}, shape.QueryHeads());
  const auto k = Joined(c.k.data(), k_at, shape.heads);
  const auto v = Joined(c.v.data(), v_at, shape.heads);
  const auto y = Joined(split, y_at, shape.QueryHeads());
  Guarded<float> got(static_cast<int64_t>(y.size()));
  AttentionInputs inputs = c.inputs;
  inputs.q = q.data();
  inputs.side_by_side = q_heads;
  inputs.kv.k = k.data();
  inputs.kv.v = v.data();
  inputs.kv.side_by_side = kv_heads;
  inputs.y = got.data();
  char where[80];
  std::snprintf(where, sizeof where, "%d samples, %d heads side by side, %d rows",
                static_cast<int>(samples), static_cast<int>(q_heads), static_cast<int>(shape.rows));
  tally.Check(Attention().Run(inputs, Backwards()) && std::equal(y.begin(), y.end(), got.data()) &&
                  got.Intact(),
              where);
}

// From floats, and from a cache that holds their codes: both give what the definition gives.
void Case(Random& random, const AttentionShape& shape, bool causal, Mask mask, Tally& tally) {
  AttentionCase c(random, shape, causal, mask);
  const int64_t size = shape.QueryHeads() * shape.rows * shape.values;
  Guarded<float> expected(size);
  DefinedAttention(c.inputs, expected.data());
  for (int64_t samples = 1; samples <= shape.heads; ++samples) {
    if (shape.heads % samples == 0) JoinedCase(c, samples, expected.data(), tally);
  }
  const Cache keys(c.k.data(), shape.heads * shape.keys, shape.depth);
  const Cache values(c.v.data(), shape.heads * shape.keys, shape.values);
  const KeysAndValues codes = {nullptr,
                               nullptr,
                               keys.codes.data(),
                               values.codes.data(),
                               keys.scales.data(),
                               values.scales.data()};
  for (const KeysAndValues& kv : {c.inputs.kv, codes}) {
    Guarded<float> got(size);
    c.inputs.kv = kv;
    c.inputs.y = got.data();
    const bool ran = Attention().Run(c.inputs, Backwards());
    char where[140];
    std::snprintf(where, sizeof where,
                  "%d heads x %d, %d of %d keys, depth %d, values %d, %d, mask %d, codes %d",
                  static_cast<int>(shape.heads), static_cast<int>(shape.group),
                  static_cast<int>(shape.rows), static_cast<int>(shape.keys),
                  static_cast<int>(shape.depth), static_cast<int>(shape.values), causal,
                  static_cast<int>(mask), kv.k == nullptr);
    tally.Check(ran && got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestAttention() {
  std::vector<Tally> tallies = {TallyOf("attention")};
  Random random(41);
  const AttentionShape shapes[] = {
      {3, 5, 5, 8, 6},
      {2, 70, 70, 16, 20},  // blocks have 32 queries
      {1, 1, 37, 32, 16},
      {4, 33, 90, 5, 17},
      {2, 9, 4, 8, 8},
      {2, 3, 0, 8, 8},
      {0, 3, 4, 8, 8},
      // Heads of queries that share keys: a few lines, and blocks across heads.
      {2, 1, 50, 64, 64, 4},
      {2, 2, 30, 80, 33, 3},
      {1, 20, 45, 16, 16, 4},
  };
  for (const AttentionShape& shape : shapes) {
    for (bool causal : {false, true}) {
      for (Mask mask : {Mask::kNone, Mask::kWhole, Mask::kOneRow, Mask::kOneColumn}) {
        Case(random, shape, causal, mask, tallies[0]);
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
