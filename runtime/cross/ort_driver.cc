// SPDX-License-Identifier: Apache-2.0
// Runs a model of one float input x and one float output y in ONNX Runtime, through the C ABI's
// slots alone, so that it cross-compiles without ONNX Runtime's headers.
//
//   ort_driver MODEL LIBRARY INPUT.bin OUTPUT.bin DIM...
//
// INPUT.bin holds float32 of shape DIM...; OUTPUT.bin receives the raw float32 of y.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "ort/abi.h"

extern "C" const OrtApiBase* OrtGetApiBase();

namespace {

struct OrtEnv;
struct OrtSession;
struct OrtMemoryInfo;
struct OrtRunOptions;

class Runtime {
 public:
  Runtime() : slots_(static_cast<void* const*>(OrtGetApiBase()->GetApi(17))) {
    if (slots_ == nullptr) Fail("ONNX Runtime has no API 17");
  }

  template <typename... Arguments>
  void Call(size_t slot, const char* doing, Arguments... arguments) const {
    OrtStatus* status = reinterpret_cast<OrtStatus* (*)(Arguments...)>(slots_[slot])(arguments...);
    if (status == nullptr) return;
    std::fprintf(stderr, "%s: ", doing);
    Fail(reinterpret_cast<const char* (*)(const OrtStatus*)>(slots_[2])(status));
  }

  [[noreturn]] static void Fail(const char* text) {
    std::fprintf(stderr, "%s\n", text);
    std::exit(1);
  }

 private:
  void* const* slots_;
};

std::vector<float> ReadFloats(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) Runtime::Fail(path);
  std::fseek(file, 0, SEEK_END);
  std::vector<float> values(static_cast<size_t>(std::ftell(file)) / sizeof(float));
  std::rewind(file);
  const size_t count = std::fread(values.data(), sizeof(float), values.size(), file);
  std::fclose(file);
  if (count != values.size()) Runtime::Fail(path);
  return values;
}

OrtSession* OpenSession(const Runtime& runtime, const char* model, const char* library) {
  OrtEnv* environment = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  constexpr int kError = 3;
  runtime.Call(3, "create environment", kError, "edgefold", &environment);
  runtime.Call(10, "create options", &options);
  runtime.Call(24, "set threads", options, 2);
  runtime.Call(228, "register library", options, library);
  runtime.Call(7, "create session", static_cast<const OrtEnv*>(environment), model,
               static_cast<const OrtSessionOptions*>(options), &session);
  return session;
}

void Run(const Runtime& runtime, OrtSession* session, const char* input_path,
         const char* output_path, const std::vector<int64_t>& dims) {
  std::vector<float> values = ReadFloats(input_path);
  OrtMemoryInfo* memory = nullptr;
  OrtValue* x = nullptr;
  OrtValue* y = nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  size_t elements = 0;
  void* data = nullptr;
  const char* inputs[] = {"x"};
  const char* outputs[] = {"y"};
  runtime.Call(69, "describe memory", 1, 0, &memory);
  runtime.Call(49, "create input", static_cast<const OrtMemoryInfo*>(memory),
               static_cast<void*>(values.data()), values.size() * sizeof(float), dims.data(),
               dims.size(), 1, &x);
  const OrtValue* const feeds[] = {x};
  runtime.Call(9, "run", session, static_cast<const OrtRunOptions*>(nullptr),
               static_cast<const char* const*>(inputs), static_cast<const OrtValue* const*>(feeds),
               size_t{1}, static_cast<const char* const*>(outputs), size_t{1}, &y);
  runtime.Call(65, "read shape", static_cast<const OrtValue*>(y), &info);
  runtime.Call(64, "count elements", static_cast<const OrtTensorTypeAndShapeInfo*>(info),
               &elements);
  runtime.Call(51, "read output", y, &data);
  std::FILE* file = std::fopen(output_path, "wb");
  if (file == nullptr) Runtime::Fail(output_path);
  const size_t written = std::fwrite(data, sizeof(float), elements, file);
  if (std::fclose(file) != 0 || written != elements) Runtime::Fail(output_path);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 6) Runtime::Fail("usage: ort_driver MODEL LIBRARY INPUT.bin OUTPUT.bin DIM...");
  const Runtime runtime;
  OrtSession* session = OpenSession(runtime, arguments[1], arguments[2]);
  std::vector<int64_t> dims;
  for (int i = 5; i < count; ++i) dims.push_back(std::atoll(arguments[i]));
  Run(runtime, session, arguments[3], arguments[4], dims);
  return 0;
}
