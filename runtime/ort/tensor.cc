// SPDX-License-Identifier: Apache-2.0
#include "ort/tensor.h"

#include <cstdarg>
#include <cstdio>

namespace edgefold::ort {

int64_t Shape::Elements() const {
  int64_t elements = 1;
  for (int i = 0; i < rank; ++i) elements *= dims[i];
  return elements;
}

bool Shape::Is(int wanted_rank, const int64_t* wanted) const {
  if (rank != wanted_rank) return false;
  for (int i = 0; i < rank; ++i) {
    if (dims[i] != wanted[i]) return false;
  }
  return true;
}

Shape Shape::Tail() const {
  Shape tail;
  tail.rank = rank - 1;
  for (int i = 1; i < rank; ++i) tail.dims[i - 1] = dims[i];
  return tail;
}

void Error::Set(const char* format, ...) {
  if (failed_) return;
  failed_ = true;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text_, sizeof text_, format, arguments);
  va_end(arguments);
}

void Error::Take(const Api& api, OrtStatus* status, const char* doing) {
  if (status == nullptr) return;
  api.ReleaseStatus(status);
  Set("EdgeFold: ONNX Runtime refused to %s", doing);
}

OrtStatus* Error::Status(const Api& api) const {
  return failed_ ? api.CreateStatus(kInvalidArgument, text_) : nullptr;
}

Tensor ReadTensor(const Api& api, const OrtValue* value, Error* error) {
  Tensor tensor;
  if (error->failed()) return tensor;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  error->Take(api, api.GetTensorTypeAndShape(value, &info), "describe a tensor");
  if (error->failed()) return tensor;
  size_t rank = 0;
  error->Take(api, api.GetTensorElementType(info, &tensor.type), "name an element type");
  error->Take(api, api.GetDimensionsCount(info, &rank), "count dimensions");
  if (rank > kMaxRank) error->Set("EdgeFold: a tensor of rank %zu; at most %d", rank, kMaxRank);
  if (!error->failed()) {
    tensor.shape.rank = static_cast<int>(rank);
    error->Take(api, api.GetDimensions(info, tensor.shape.dims, rank), "list dimensions");
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  void* data = nullptr;
  error->Take(api, api.GetTensorMutableData(value, &data), "give a tensor's data");
  tensor.data = data;
  return tensor;
}

const char* ShapeText(const Shape& shape, char* text, int size) {
  int used = std::snprintf(text, size, "[");
  for (int i = 0; i < shape.rank && used < size; ++i) {
    used += std::snprintf(text + used, size - used, i == 0 ? "%lld" : ",%lld",
                          static_cast<long long>(shape.dims[i]));
  }
  if (used < size) std::snprintf(text + used, size - used, "]");
  return text;
}

}  // namespace edgefold::ort
