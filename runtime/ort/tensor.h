// SPDX-License-Identifier: Apache-2.0
// Tensors of a node as plain pointers with shapes, and errors as one line of text.
#pragma once

#include <cstdint>

#include "ort/abi.h"

namespace edgefold::ort {

inline constexpr int kMaxRank = 16;

struct Shape {
  int64_t dims[kMaxRank];
  int rank = 0;

  int64_t Elements() const;
  bool Is(int wanted_rank, const int64_t* wanted) const;
  // Without the first dimension.
  Shape Tail() const;
};

struct Tensor {
  const void* data = nullptr;
  int type = 0;
  Shape shape;

  template <typename Element>
  const Element* As() const {
    return static_cast<const Element*>(data);
  }
};

// The first thing that went wrong. Later calls on a failed Error change nothing.
class Error {
 public:
  bool failed() const { return failed_; }
  void Set(const char* format, ...) __attribute__((format(printf, 2, 3)));
  // Takes ownership of `status` (null means success) and keeps its text.
  void Take(const Api& api, OrtStatus* status, const char* doing);
  // Null, or a new status carrying the text.
  OrtStatus* Status(const Api& api) const;

 private:
  bool failed_ = false;
  char text_[400] = {};
};

// Reads a value's pointer, element type and shape.
Tensor ReadTensor(const Api& api, const OrtValue* value, Error* error);

// Appends a readable form of the shape, such as [2,3], to text of the given size.
const char* ShapeText(const Shape& shape, char* text, int size);

}  // namespace edgefold::ort
