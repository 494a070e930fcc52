// SPDX-License-Identifier: Apache-2.0
// The library's one exported function.
#include <atomic>

#include "ort/operator.h"

namespace edgefold::ort {

#define EF_OPERATOR(name) const CustomOp* name();
#define EF_WEIGHTED_OPERATOR(name) const CustomOp* name(int weight_bits);
#include "ort/operators.inc"
#undef EF_OPERATOR
#undef EF_WEIGHTED_OPERATOR

namespace {

// Of ONNX Runtime's functions; sessions may be opened by several threads at once.
std::atomic<const void*> g_table = nullptr;

// Domain and operators live as long as the process: ONNX Runtime keeps pointers to them, and the
// library is linked to stay.
OrtStatus* MakeDomain(const Api& api, int weight_bits, OrtCustomOpDomain** domain) {
  OrtStatus* status = api.CreateCustomOpDomain("ai.edgefold", domain);
#define EF_OPERATOR(name) \
  if (status == nullptr) status = api.CustomOpDomain_Add(*domain, name());
#define EF_WEIGHTED_OPERATOR(name) \
  if (status == nullptr) status = api.CustomOpDomain_Add(*domain, name(weight_bits));
#include "ort/operators.inc"
#undef EF_OPERATOR
#undef EF_WEIGHTED_OPERATOR
  return status;
}

// One for every width that a session may ask for.
struct Domains {
  OrtCustomOpDomain* domain[kWidths] = {};
  OrtStatus* status = nullptr;
};

constexpr const char* kWeightBits = "edgefold.weight_bits";

// The width that the session options ask for, or 0; -1 where the entry is no width.
int WeightBits(const Api& api, const OrtSessionOptions* options) {
  int present = 0;
  char value[16] = {};
  size_t size = sizeof value;
  Error error;
  error.Take(api, api.HasSessionConfigEntry(options, kWeightBits, &present), "look up an option");
  if (error.failed() || present == 0) return 0;
  error.Take(api, api.GetSessionConfigEntry(options, kWeightBits, value, &size), "read an option");
  const bool right = !error.failed() && value[0] >= '2' && value[0] <= '8' && value[1] == '\0';
  return right ? value[0] - '0' : -1;
}

}  // namespace

const Api& RegisteredApi() {
  static const Api api(g_table);
  return api;
}

}  // namespace edgefold::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace edgefold::ort;
  const void* table = base->GetApi(kApiVersion);
  if (table == nullptr) {
    // Version 1 exists in every runtime; it only carries the message.
    return Api(base->GetApi(1))
        .CreateStatus(kFail, "EdgeFold needs ONNX Runtime 1.17 or newer; update onnxruntime");
  }
  g_table = table;  // the same at every call
  const Api& api = RegisteredApi();
  static const Domains made = [&api] {
    Domains d;
    for (int bits = 0; bits < kWidths && d.status == nullptr; ++bits) {
      d.status = MakeDomain(api, bits, &d.domain[bits]);
    }
    return d;
  }();
  if (made.status != nullptr) {
    return api.CreateStatus(kFail, "EdgeFold: the operator domain could not be created");
  }
  const int weight_bits = WeightBits(api, options);
  if (weight_bits < 0) {
    return api.CreateStatus(kInvalidArgument,
                            "EdgeFold: session option edgefold.weight_bits: expected 2 to 8");
  }
  return api.AddCustomOpDomain(options, made.domain[weight_bits]);
}
