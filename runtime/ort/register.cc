// SPDX-License-Identifier: Apache-2.0
// The library's one exported function.
#include "ort/operator.h"

namespace edgefold::ort {

#define EF_OPERATOR(name) const CustomOp* name();
#include "ort/operators.inc"
#undef EF_OPERATOR

namespace {

const void* g_table = nullptr;

// Domain and operators live as long as the process: ONNX Runtime keeps pointers to them.
OrtStatus* MakeDomain(const Api& api, OrtCustomOpDomain** domain) {
  OrtStatus* status = api.CreateCustomOpDomain("ai.edgefold", domain);
#define EF_OPERATOR(name) \
  if (status == nullptr) status = api.CustomOpDomain_Add(*domain, name());
#include "ort/operators.inc"
#undef EF_OPERATOR
  return status;
}

struct Domain {
  OrtCustomOpDomain* domain = nullptr;
  OrtStatus* status = nullptr;
};

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
  if (g_table == nullptr) g_table = table;
  const Api& api = RegisteredApi();
  static const Domain made = [&api] {
    Domain d;
    d.status = MakeDomain(api, &d.domain);
    return d;
  }();
  if (made.status != nullptr) {
    return api.CreateStatus(kFail, "EdgeFold: the operator domain could not be created");
  }
  return api.AddCustomOpDomain(options, made.domain);
}
