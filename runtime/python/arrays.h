// SPDX-License-Identifier: Apache-2.0
// numpy arrays in and out of the kernels, with the checks a kernel leaves to its caller.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "base/activation_at.h"
#include "base/packed_matrix.h"

namespace edgefold::python {

template <typename Element, int kRank>
using Input = nanobind::ndarray<const Element, nanobind::ndim<kRank>, nanobind::c_contig,
                                nanobind::device::cpu>;

inline void Require(bool condition, const char* otherwise) {
  if (!condition) throw std::invalid_argument(otherwise);  // ValueError in Python
}

// A new array that Python comes to own.
template <typename Element, int kRank>
class Output {
 public:
  explicit Output(const int64_t (&shape)[kRank]) {
    int64_t size = 1;
    for (int i = 0; i < kRank; ++i) {
      shape_[i] = static_cast<size_t>(shape[i]);
      size *= shape[i];
    }
    data_ = new Element[std::max<int64_t>(size, 1)];
    owner_ =
        nanobind::capsule(data_, [](void* data) noexcept { delete[] static_cast<Element*>(data); });
  }
  Element* data() { return data_; }
  nanobind::ndarray<nanobind::numpy, Element> Take() {
    return nanobind::ndarray<nanobind::numpy, Element>(data_, kRank, shape_, owner_);
  }

 private:
  size_t shape_[kRank];
  Element* data_;
  nanobind::capsule owner_;
};

template <typename Element, int kRank>
auto Taken(Output<Element, kRank> output) {
  return output.Take();
}
inline nanobind::tuple Taken(nanobind::tuple result) { return result; }

// A packed matrix that keeps its arrays alive.
struct Matrix {
  Matrix(Input<uint8_t, 3> codes, Input<uint8_t, 3> selectors, Input<int8_t, 2> table, int64_t k,
         int64_t n)
      : codes_(codes), selectors_(selectors), table_(table) {
    packed.k = k;
    packed.n = n;
    packed.bits = static_cast<int32_t>(codes.shape(2) / 8);
    packed.tables = static_cast<int32_t>(table.shape(0));
    Require(k >= 1 && n >= 1, "k and n must be positive");
    Require(packed.bits >= 2 && packed.bits <= 8 && codes.shape(2) % 8 == 0, "2 to 8 bits");
    Require(packed.tables >= 1 && packed.tables <= kMaxTables &&
                packed.tables << packed.bits <= kMaxTableBytes &&
                static_cast<int>(table.shape(1)) == 1 << packed.bits,
            "table must be [tables, 2**bits] with at most 256 entries and 16 tables");
    Require(Equal(codes, packed.Panels(), packed.Units(), packed.UnitBytes()),
            "codes must be [ceil(N/16), ceil(K/4), 8*bits]");
    Require(packed.tables == 1 ? Equal(selectors, 1, 1, 8)
                               : Equal(selectors, packed.Panels(), packed.Groups(), 8),
            "selectors must be [ceil(N/16), ceil(K/32), 8], or [1, 1, 8] for one table");
    packed.codes = codes.data();
    packed.selectors = selectors.data();
    packed.table = table.data();
    Require(SelectorsValid(packed), "a selector names a table that does not exist");
    DetectStructure(&packed);
  }

  PackedMatrix packed = {};

 private:
  static bool Equal(const Input<uint8_t, 3>& array, int64_t a, int64_t b, int64_t c) {
    return static_cast<int64_t>(array.shape(0)) == a && static_cast<int64_t>(array.shape(1)) == b &&
           static_cast<int64_t>(array.shape(2)) == c;
  }

  Input<uint8_t, 3> codes_;
  Input<uint8_t, 3> selectors_;
  Input<int8_t, 2> table_;
};

// Quantized rows [M, stride] (int8 seen as bytes) with their sums.
struct Rows {
  Rows(Input<uint8_t, 2> codes, bool is_unsigned) : codes_(codes) {
    const int64_t rows = static_cast<int64_t>(codes.shape(0));
    const int64_t stride = static_cast<int64_t>(codes.shape(1));
    Require(stride % kGroupDepth == 0, "rows must be padded with zeros to a multiple of 32");
    const int64_t groups = stride / kGroupDepth;
    sums_.resize(rows);
    pair_sums_.resize(rows * groups * 4);
    activations = {codes.data(), stride,       rows,
                   is_unsigned,  sums_.data(), is_unsigned ? nullptr : pair_sums_.data(),
                   groups};
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t k = 0; k < stride; ++k) {
        const int32_t code = ActivationAt(activations, m, k);
        Require(is_unsigned || code >= -127, "int8 rows hold -127 to 127");
        sums_[m] += code;
        int16_t& pair = pair_sums_[(m * groups * 2 + k / 16) * 2 + k % 4 / 2];
        pair = static_cast<int16_t>(pair + code);
      }
    }
  }
  Rows(const Rows&) = delete;

  Activations activations;

 private:
  Input<uint8_t, 2> codes_;
  std::vector<int32_t> sums_;
  std::vector<int16_t> pair_sums_;
};

}  // namespace edgefold::python
