// SPDX-License-Identifier: Apache-2.0
#include "ort/operator.h"

#include <atomic>
#include <cstdio>

namespace edgefold::ort {
namespace {

struct ThreadsOfSession {
  static void Run(void* context, void (*task)(void*, size_t), size_t total, void* user) {
    const Context* self = static_cast<const Context*>(context);
    if (total == 0) return;
    if (total == 1) return task(user, 0);
    OrtStatus* status = self->api().KernelContext_ParallelFor(self->get(), task, total, 0, user);
    if (status == nullptr) return;
    // Refused before any task ran (it fails only on bad arguments): do the work here.
    self->api().ReleaseStatus(status);
    for (size_t i = 0; i < total; ++i) task(user, i);
  }
};

}  // namespace

Tensor Context::Input(size_t index, Error* error) const {
  const OrtValue* value = nullptr;
  error->Take(api_, api_.KernelContext_GetInput(context_, index, &value), "give an input");
  if (value == nullptr) error->Set("EdgeFold: input %zu is missing", index);
  return error->failed() ? Tensor() : ReadTensor(api_, value, error);
}

void* Context::Output(const Shape& shape, Error* error, size_t index) const {
  if (error->failed()) return nullptr;
  OrtValue* value = nullptr;
  error->Take(api_, api_.KernelContext_GetOutput(context_, index, shape.dims, shape.rank, &value),
              "allocate an output");
  void* data = nullptr;
  if (!error->failed()) {
    error->Take(api_, api_.GetTensorMutableData(value, &data), "give the output's data");
  }
  return data;
}

Parallel Context::Threads() const { return {ThreadsOfSession::Run, const_cast<Context*>(this)}; }

bool InferredInput(const Api& api, OrtShapeInferContext* context, size_t index,
                   SymbolicShape* out) {
  Error error;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  error.Take(api, api.ShapeInferContext_GetInputTypeShape(context, index, &info), "show a shape");
  if (error.failed() || info == nullptr) return false;
  size_t rank = 0;
  error.Take(api, api.GetDimensionsCount(info, &rank), "count dimensions");
  // ONNX Runtime shows an unknown rank as 0; nothing is inferred from a scalar, then.
  if (error.failed() || rank == 0 || rank > kMaxRank) return false;
  out->shape.rank = static_cast<int>(rank);
  error.Take(api, api.GetDimensions(info, out->shape.dims, rank), "list dimensions");
  error.Take(api, api.GetSymbolicDimensions(info, out->names, rank), "name dimensions");
  return !error.failed();
}

void NameUnknownSizes(SymbolicShape* shape, MadeNames* names) {
  static std::atomic<uint64_t> made{0};
  for (int d = 0; d < shape->shape.rank; ++d) {
    const bool named = shape->names[d] != nullptr && shape->names[d][0] != '\0';
    if (shape->shape.dims[d] >= 0 || named) continue;
    std::snprintf(names->text[d], sizeof names->text[d], "edgefold_%llu",
                  static_cast<unsigned long long>(++made));
    shape->names[d] = names->text[d];
  }
}

int64_t InferredInt(const Api& api, OrtShapeInferContext* context, const char* name) {
  constexpr int kInt = 1;  // OrtOpAttrType
  const OrtOpAttr* attribute = nullptr;
  int64_t value = -1;
  size_t written = 0;
  Error error;
  error.Take(api, api.ShapeInferContext_GetAttribute(context, name, &attribute),
             "show an attribute");
  if (error.failed() || attribute == nullptr) return -1;
  error.Take(api, api.ReadOpAttr(attribute, kInt, &value, sizeof value, &written),
             "read an attribute");
  return error.failed() ? -1 : value;
}

void InferredOutput(const Api& api, OrtShapeInferContext* context, int type,
                    const SymbolicShape& shape, Error* error, size_t index) {
  const size_t rank = shape.shape.rank;
  const char* names[kMaxRank];
  for (size_t i = 0; i < rank; ++i) {
    names[i] = shape.shape.dims[i] < 0 && shape.names[i] != nullptr ? shape.names[i] : "";
    // ONNX Runtime would take -1 without a name for a length, and warn at every run that it is
    // another.
    if (shape.shape.dims[i] < 0 && names[i][0] == '\0') return;
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  error->Take(api, api.CreateTensorTypeAndShapeInfo(&info), "create a shape");
  if (error->failed()) return;
  error->Take(api, api.SetTensorElementType(info, type), "set an element type");
  error->Take(api, api.SetDimensions(info, shape.shape.dims, rank), "set dimensions");
  error->Take(api, api.SetSymbolicDimensions(info, names, rank), "name dimensions");
  error->Take(api, api.ShapeInferContext_SetOutputTypeShape(context, index, info), "set a shape");
  api.ReleaseTensorTypeAndShapeInfo(info);
}

}  // namespace edgefold::ort
