// SPDX-License-Identifier: Apache-2.0
// Makes a CustomOp of a kernel class, which provides
//
//   static constexpr const char* kName;
//   static constexpr int kInputTypes[];        element types, all inputs required
//   static constexpr int kOutputType;          kFloat where it is left out
//   static constexpr int kOutputTypes[];       instead of it, where there are several outputs
//   static Kernel* Create(const Node&);        null after setting the node's error
//   void Compute(Context&, Error*) const;
//   static void InferShape(const Api&, OrtShapeInferContext*, Error*);
//
// A kernel is read-only once created: ONNX Runtime may compute it from several threads.
#pragma once

#include <array>
#include <type_traits>

#include "base/arch.h"
#include "base/parallel.h"
#include "ort/node.h"

namespace edgefold::ort {

// What a kernel sees during Compute.
class Context {
 public:
  Context(const Api& api, OrtKernelContext* context) : api_(api), context_(context) {}

  Tensor Input(size_t index, Error* error) const;
  // Allocates an output.
  void* Output(const Shape& shape, Error* error, size_t index = 0) const;
  // Runs on the session's intra-op threads.
  Parallel Threads() const;
  const Api& api() const { return api_; }
  OrtKernelContext* get() const { return context_; }

 private:
  const Api& api_;
  OrtKernelContext* context_;
};

// Shape of input `index` as far as it is known: -1 for an unknown or symbolic dimension, whose name
// (or "") stands in `names`. False when even the rank is unknown, or 0.
struct SymbolicShape {
  Shape shape;
  const char* names[kMaxRank];
};
bool InferredInput(const Api& api, OrtShapeInferContext* context, size_t index, SymbolicShape* out);
// Gives every unknown size that has no name one that no other size has: a type can be declared only
// together with a shape, and unknown sizes only by name.
struct MadeNames {
  char text[kMaxRank][32];
};
void NameUnknownSizes(SymbolicShape* shape, MadeNames* names);
// An integer attribute, or -1.
int64_t InferredInt(const Api& api, OrtShapeInferContext* context, const char* name);
// Declares an output.
void InferredOutput(const Api& api, OrtShapeInferContext* context, int type,
                    const SymbolicShape& shape, Error* error, size_t index = 0);

// An operator of sessions that ask for weights of this width.
struct WidthOp : CustomOp {
  int weight_bits;
};
inline constexpr int kWidths = 9;  // 0: none asked for; 2 to 8

template <typename Kernel, typename = void>
inline constexpr int kOutputTypeOf = kFloat;
template <typename Kernel>
inline constexpr int kOutputTypeOf<Kernel, std::void_t<decltype(Kernel::kOutputType)>> =
    Kernel::kOutputType;

template <typename Kernel, typename = void>
struct OutputsOf {
  static constexpr size_t kCount = 1;
  static constexpr int Type(size_t) { return kOutputTypeOf<Kernel>; }
};
template <typename Kernel>
struct OutputsOf<Kernel, std::void_t<decltype(Kernel::kOutputTypes)>> {
  static constexpr size_t kCount = sizeof Kernel::kOutputTypes / sizeof *Kernel::kOutputTypes;
  static constexpr int Type(size_t i) { return Kernel::kOutputTypes[i]; }
};

template <typename Kernel>
struct Operator {
  // The kernel and the table it was created with.
  struct Instance {
    Api api;
    Kernel* kernel;
  };

  static OrtStatus* CreateAs(int weight_bits, const void* table, const OrtKernelInfo* info,
                             void** out) {
    const Api api(table);
    Error error;
    if (SelectedIsa().error != nullptr) error.Set("%s", SelectedIsa().error);
    Kernel* kernel =
        error.failed() ? nullptr : Kernel::Create({api, info, Kernel::kName, &error, weight_bits});
    if (error.failed()) {
      delete kernel;
      return error.Status(api);
    }
    *out = new Instance{api, kernel};
    return nullptr;
  }

  static OrtStatus* Create(const CustomOp*, const void* table, const OrtKernelInfo* info,
                           void** out) {
    return CreateAs(0, table, info, out);
  }

  static OrtStatus* CreateAtWidth(const CustomOp* op, const void* table, const OrtKernelInfo* info,
                                  void** out) {
    return CreateAs(static_cast<const WidthOp*>(op)->weight_bits, table, info, out);
  }

  static OrtStatus* Compute(void* state, OrtKernelContext* context) {
    const Instance* instance = static_cast<const Instance*>(state);
    Error error;
    Context wrapped(instance->api, context);
    instance->kernel->Compute(wrapped, &error);
    return error.Status(instance->api);
  }

  static void Destroy(void* state) {
    Instance* instance = static_cast<Instance*>(state);
    delete instance->kernel;
    delete instance;
  }

  static OrtStatus* Infer(const CustomOp* op, OrtShapeInferContext* context);

  static CustomOp Make() {
    CustomOp op = {};
    op.version = kApiVersion;
    op.GetName = [](const CustomOp*) { return Kernel::kName; };
    op.GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };
    op.GetInputType = [](const CustomOp*, size_t i) { return Kernel::kInputTypes[i]; };
    op.GetInputTypeCount = [](const CustomOp*) {
      return sizeof Kernel::kInputTypes / sizeof *Kernel::kInputTypes;
    };
    op.GetOutputType = [](const CustomOp*, size_t i) -> int { return OutputsOf<Kernel>::Type(i); };
    op.GetOutputTypeCount = [](const CustomOp*) { return OutputsOf<Kernel>::kCount; };
    op.KernelDestroy = Destroy;
    op.GetInputCharacteristic = [](const CustomOp*, size_t) { return 0; };
    op.GetOutputCharacteristic = [](const CustomOp*, size_t) { return 0; };
    op.GetInputMemoryType = [](const CustomOp*, size_t) { return 0; };
    op.GetVariadicInputMinArity = [](const CustomOp*) { return 1; };
    op.GetVariadicInputHomogeneity = [](const CustomOp*) { return 1; };
    op.GetVariadicOutputMinArity = [](const CustomOp*) { return 1; };
    op.GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
    op.CreateKernelV2 = Create;
    op.KernelComputeV2 = Compute;
    op.InferOutputShape = Infer;
    op.GetStartVersion = [](const CustomOp*) { return 1; };
    op.GetEndVersion = [](const CustomOp*) { return 1; };
    return op;
  }

  // The operator for sessions that ask for a width, 2 to 8, or for none, 0.
  static const CustomOp* AtWidth(int weight_bits) {
    static const std::array<WidthOp, kWidths> ops = [] {
      std::array<WidthOp, kWidths> made = {};
      for (int bits = 0; bits < kWidths; ++bits) {
        static_cast<CustomOp&>(made[bits]) = Make();
        made[bits].CreateKernelV2 = CreateAtWidth;
        made[bits].weight_bits = bits;
      }
      return made;
    }();
    return &ops[weight_bits];
  }
};

// The table for calls that come without one (shape inference); set by RegisterCustomOps.
const Api& RegisteredApi();

template <typename Kernel>
OrtStatus* Operator<Kernel>::Infer(const CustomOp*, OrtShapeInferContext* context) {
  Error error;
  Kernel::InferShape(RegisteredApi(), context, &error);
  return error.Status(RegisteredApi());
}

}  // namespace edgefold::ort
