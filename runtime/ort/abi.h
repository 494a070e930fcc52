// SPDX-License-Identifier: Apache-2.0
// The part of ONNX Runtime's C ABI that a custom-operator library needs, API version 17 (ORT 1.17).
// OrtApi is a table of function pointers to which newer versions only append, so a slot number
// names a function for good. Nothing here is linked: the table arrives in RegisterCustomOps.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct OrtStatus;
struct OrtSessionOptions;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtCustomOpDomain;
struct OrtOpAttr;

struct OrtApiBase {
  const void* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
}

namespace edgefold::ort {

inline constexpr uint32_t kApiVersion = 17;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kInvalidGraph = 10 };
enum ElementType : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7 };
// An input type that accepts any tensor.
inline constexpr int kAnyType = 0;

// Mirrors struct OrtCustomOp up to version 17; the runtime reads fields by their offset.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const void*, const OrtKernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int (*GetInputType)(const CustomOp*, size_t);
  size_t (*GetInputTypeCount)(const CustomOp*);
  int (*GetOutputType)(const CustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const CustomOp*, size_t);
  int (*GetOutputCharacteristic)(const CustomOp*, size_t);
  int (*GetInputMemoryType)(const CustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  OrtStatus* (*CreateKernelV2)(const CustomOp*, const void* api, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
  OrtStatus* (*InferOutputShape)(const CustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  size_t (*GetMayInplace)(int**, int**);
  void (*ReleaseMayInplace)(int*, int*);
  size_t (*GetAliasMap)(int**, int**);
  void (*ReleaseAliasMap)(int*, int*);
};
static_assert(sizeof(void*) != 8 || sizeof(CustomOp) == 208);
static_assert(sizeof(void*) != 8 || offsetof(CustomOp, KernelComputeV2) == 144);
static_assert(sizeof(void*) != 8 || offsetof(CustomOp, GetEndVersion) == 168);

// Typed view of the function table. Each method is the ORT function of the same name.
class Api {
 public:
  explicit Api(const void* table) : slots_(static_cast<void* const*>(table)) {}

  OrtStatus* CreateStatus(int code, const char* message) const {
    return Slot<OrtStatus*(int, const char*)>(0)(code, message);
  }
  void ReleaseStatus(OrtStatus* s) const { Slot<void(OrtStatus*)>(93)(s); }

  OrtStatus* CreateCustomOpDomain(const char* name, OrtCustomOpDomain** out) const {
    return Slot<OrtStatus*(const char*, OrtCustomOpDomain**)>(26)(name, out);
  }
  OrtStatus* CustomOpDomain_Add(OrtCustomOpDomain* domain, const CustomOp* op) const {
    return Slot<OrtStatus*(OrtCustomOpDomain*, const CustomOp*)>(27)(domain, op);
  }
  OrtStatus* AddCustomOpDomain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const {
    return Slot<OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>(28)(options, domain);
  }

  OrtStatus* HasSessionConfigEntry(const OrtSessionOptions* o, const char* key, int* out) const {
    return Slot<OrtStatus*(const OrtSessionOptions*, const char*, int*)>(237)(o, key, out);
  }
  OrtStatus* GetSessionConfigEntry(const OrtSessionOptions* o, const char* key, char* value,
                                   size_t* size) const {
    return Slot<OrtStatus*(const OrtSessionOptions*, const char*, char*, size_t*)>(238)(
        o, key, value, size);
  }

  OrtStatus* GetTensorMutableData(const OrtValue* value, void** out) const {
    return Slot<OrtStatus*(const OrtValue*, void**)>(51)(value, out);
  }
  OrtStatus* GetTensorTypeAndShape(const OrtValue* v, OrtTensorTypeAndShapeInfo** out) const {
    return Slot<OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)>(65)(v, out);
  }
  OrtStatus* CreateTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo** out) const {
    return Slot<OrtStatus*(OrtTensorTypeAndShapeInfo**)>(57)(out);
  }
  OrtStatus* SetTensorElementType(OrtTensorTypeAndShapeInfo* info, int type) const {
    return Slot<OrtStatus*(OrtTensorTypeAndShapeInfo*, int)>(58)(info, type);
  }
  OrtStatus* SetDimensions(OrtTensorTypeAndShapeInfo* i, const int64_t* dims, size_t n) const {
    return Slot<OrtStatus*(OrtTensorTypeAndShapeInfo*, const int64_t*, size_t)>(59)(i, dims, n);
  }
  OrtStatus* GetTensorElementType(const OrtTensorTypeAndShapeInfo* info, int* out) const {
    return Slot<OrtStatus*(const OrtTensorTypeAndShapeInfo*, int*)>(60)(info, out);
  }
  OrtStatus* GetDimensionsCount(const OrtTensorTypeAndShapeInfo* info, size_t* out) const {
    return Slot<OrtStatus*(const OrtTensorTypeAndShapeInfo*, size_t*)>(61)(info, out);
  }
  OrtStatus* GetDimensions(const OrtTensorTypeAndShapeInfo* i, int64_t* out, size_t n) const {
    return Slot<OrtStatus*(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>(62)(i, out, n);
  }
  OrtStatus* GetSymbolicDimensions(const OrtTensorTypeAndShapeInfo* i, const char** out,
                                   size_t n) const {
    return Slot<OrtStatus*(const OrtTensorTypeAndShapeInfo*, const char**, size_t)>(63)(i, out, n);
  }
  void ReleaseTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo* info) const {
    Slot<void(OrtTensorTypeAndShapeInfo*)>(99)(info);
  }

  OrtStatus* KernelInfoGetAttribute_float(const OrtKernelInfo* info, const char* name,
                                          float* out) const {
    return Slot<OrtStatus*(const OrtKernelInfo*, const char*, float*)>(85)(info, name, out);
  }
  OrtStatus* KernelInfoGetAttribute_int64(const OrtKernelInfo* info, const char* name,
                                          int64_t* out) const {
    return Slot<OrtStatus*(const OrtKernelInfo*, const char*, int64_t*)>(86)(info, name, out);
  }
  OrtStatus* KernelInfoGetAttributeArray_float(const OrtKernelInfo* info, const char* name,
                                               float* out, size_t* size) const {
    return Slot<OrtStatus*(const OrtKernelInfo*, const char*, float*, size_t*)>(162)(info, name,
                                                                                     out, size);
  }
  OrtStatus* KernelInfoGetAttributeArray_int64(const OrtKernelInfo* info, const char* name,
                                               int64_t* out, size_t* size) const {
    return Slot<OrtStatus*(const OrtKernelInfo*, const char*, int64_t*, size_t*)>(163)(info, name,
                                                                                       out, size);
  }
  OrtStatus* KernelInfo_GetInputCount(const OrtKernelInfo* info, size_t* out) const {
    return Slot<OrtStatus*(const OrtKernelInfo*, size_t*)>(230)(info, out);
  }
  OrtStatus* KernelInfo_GetInputName(const OrtKernelInfo* info, size_t index, char* out,
                                     size_t* size) const {
    return Slot<OrtStatus*(const OrtKernelInfo*, size_t, char*, size_t*)>(232)(info, index, out,
                                                                               size);
  }
  OrtStatus* KernelInfoGetConstantInput_tensor(const OrtKernelInfo* info, size_t index,
                                               int* is_constant, const OrtValue** out) const {
    return Slot<OrtStatus*(const OrtKernelInfo*, size_t, int*, const OrtValue**)>(249)(
        info, index, is_constant, out);
  }

  OrtStatus* KernelContext_GetInput(const OrtKernelContext* c, size_t i,
                                    const OrtValue** out) const {
    return Slot<OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)>(90)(c, i, out);
  }
  OrtStatus* KernelContext_GetOutput(OrtKernelContext* context, size_t index, const int64_t* dims,
                                     size_t rank, OrtValue** out) const {
    return Slot<OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>(91)(
        context, index, dims, rank, out);
  }
  OrtStatus* KernelContext_ParallelFor(const OrtKernelContext* context, void (*task)(void*, size_t),
                                       size_t total, size_t batches, void* user) const {
    return Slot<OrtStatus*(const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t,
                           void*)>(274)(context, task, total, batches, user);
  }

  // The returned object belongs to the context.
  OrtStatus* ShapeInferContext_GetInputTypeShape(const OrtShapeInferContext* c, size_t i,
                                                 OrtTensorTypeAndShapeInfo** out) const {
    return Slot<OrtStatus*(const OrtShapeInferContext*, size_t, OrtTensorTypeAndShapeInfo**)>(268)(
        c, i, out);
  }
  OrtStatus* ShapeInferContext_GetAttribute(const OrtShapeInferContext* c, const char* name,
                                            const OrtOpAttr** out) const {
    return Slot<OrtStatus*(const OrtShapeInferContext*, const char*, const OrtOpAttr**)>(269)(
        c, name, out);
  }
  OrtStatus* ReadOpAttr(const OrtOpAttr* attribute, int type, void* data, size_t capacity,
                        size_t* size) const {
    return Slot<OrtStatus*(const OrtOpAttr*, int, void*, size_t, size_t*)>(272)(
        attribute, type, data, capacity, size);
  }
  OrtStatus* ShapeInferContext_SetOutputTypeShape(const OrtShapeInferContext* c, size_t i,
                                                  const OrtTensorTypeAndShapeInfo* info) const {
    return Slot<OrtStatus*(const OrtShapeInferContext*, size_t, const OrtTensorTypeAndShapeInfo*)>(
        270)(c, i, info);
  }
  OrtStatus* SetSymbolicDimensions(OrtTensorTypeAndShapeInfo* i, const char** names,
                                   size_t n) const {
    return Slot<OrtStatus*(OrtTensorTypeAndShapeInfo*, const char**, size_t)>(271)(i, names, n);
  }

 private:
  template <typename Function>
  Function* Slot(size_t index) const {
    return reinterpret_cast<Function*>(slots_[index]);
  }

  void* const* slots_;
};

}  // namespace edgefold::ort
