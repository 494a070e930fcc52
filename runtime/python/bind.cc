// SPDX-License-Identifier: Apache-2.0
// edgefold._kernels: every variant of every kernel family as a callable on numpy arrays, so that
// tests pin the references to numpy, and `doctor` can say which variants this machine gets.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "base/scratch.h"
#include "kernels/activation/activation.h"
#include "kernels/conv_depthwise/conv_depthwise.h"
#include "kernels/conv_epilogue/conv_epilogue.h"
#include "kernels/conv_quantize/conv_quantize.h"
#include "kernels/conv_sums/conv_sums.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm_float/gemm_float.h"
#include "kernels/gemm_packed/gemm_packed.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemm_wide/gemm_wide.h"
#include "kernels/gemm_windows/gemm_windows.h"
#include "kernels/gemv/gemv.h"
#include "kernels/l1_norm/l1_norm.h"
#include "kernels/l2_norm/l2_norm.h"
#include "kernels/lookup/lookup.h"
#include "kernels/peak/peak.h"
#include "kernels/quantize/quantize.h"
#include "kernels/quantize_panels/quantize_panels.h"
#include "kernels/requantize/requantize.h"
#include "kernels/row_dots/row_dots.h"
#include "kernels/row_sums/row_sums.h"
#include "kernels/softmax/softmax.h"
#include "kernels/unpack/unpack.h"
#include "python/arrays.h"

namespace edgefold::python {
namespace {

Output<int8_t, 2> Unpack(UnpackKernel* run, const Matrix& matrix, int64_t panel, int64_t first_unit,
                         int64_t units) {
  const PackedMatrix& m = matrix.packed;
  Require(panel >= 0 && panel < m.Panels(), "panel is outside the matrix");
  Require(first_unit >= 0 && first_unit % kGroupUnits == 0, "first_unit is not a multiple of 8");
  Require(units >= 0 && first_unit + units <= m.Units(), "units reach beyond the matrix");
  Output<int8_t, 2> out({units, kUnitCodes});
  run(m, panel, first_unit, units, out.data());
  return out;
}

Output<int32_t, 2> Gemm(GemmKernel* run, const Rows& rows, const Input<int8_t, 3>& panels) {
  const int64_t units = static_cast<int64_t>(panels.shape(1));
  Require(panels.shape(2) == kUnitCodes && units >= 1, "panels must be [P, units, 64]");
  Require(units * kUnitDepth <= rows.activations.stride, "the rows are shorter than the panels");
  const int64_t width = static_cast<int64_t>(panels.shape(0)) * kPanelColumns;
  Output<int32_t, 2> out({rows.activations.rows, width});
  run(rows.activations, panels.data(), width / kPanelColumns, units, out.data(), width);
  return out;
}

// The blocks as bytes: codes and offsets of one after the other.
Output<uint8_t, 2> Arrange(ArrangeKernel* run, const Rows& rows, int run_units, int bias) {
  const Activations& a = rows.activations;
  const bool known = run_units == 4 || run_units == 8 || run_units == 16;
  Require(known || run_units == 2 && a.is_unsigned, "runs have 4, 8 or 16 units, or 2 of uint8");
  Require(bias >= 0 && bias < 64, "bias must be within 0..63");
  ArrangedRows arranged = {nullptr, a.rows, a.groups, a.is_unsigned, run_units, bias};
  const Scratch blocks = AllocateScratch(arranged.Bytes());
  std::fill_n(blocks.get(), arranged.Bytes(), uint8_t{0});
  arranged.blocks = blocks.get();
  run(a, 0, arranged);
  Output<uint8_t, 2> out({arranged.Blocks(), arranged.BlockBytes()});
  std::copy_n(blocks.get(), arranged.Bytes(), out.data());
  return out;
}

Output<int32_t, 2> GemmShift(GemmShiftKernel* run, const Matrix& matrix, int64_t panel,
                             const Rows& rows) {
  const PackedMatrix& m = matrix.packed;
  Require(GemmShiftApplies(m), "the tables are not multiples of one another, or wider than 4 bits");
  Require(panel >= 0 && panel < m.Panels(), "panel is outside the matrix");
  Require(rows.activations.groups == m.Groups(), "the rows and the matrix differ in K");
  ArrangedRows arranged = GemmShiftRows(m, rows.activations.rows, rows.activations.is_unsigned);
  const Scratch blocks = AllocateScratch(arranged.Bytes());
  const Scratch scratch = AllocateScratch(GemmShiftScratch(arranged));
  arranged.blocks = blocks.get();
  ArrangeKernels().Choose().run(rows.activations, 0, arranged);
  Output<int32_t, 2> out({rows.activations.rows, kPanelColumns});
  run(m, panel, 1, arranged, scratch.get(), out.data(), kPanelColumns);
  return out;
}

Output<int32_t, 2> Gemv(GemvKernel* run, const Matrix& matrix, const Rows& rows) {
  const PackedMatrix& m = matrix.packed;
  Require(rows.activations.groups == m.Groups(), "the rows and the matrix differ in K");
  const int64_t width = m.Panels() * kPanelColumns;
  Output<int32_t, 2> out({rows.activations.rows, width});
  run(m, 0, m.Panels(), rows.activations, out.data(), width);
  return out;
}

nanobind::tuple Quantize(QuantizeKernel* run, const Input<float, 2>& x, int low, int high,
                         float x_scale, const Input<uint8_t, 1>& shifts) {
  const bool bytes = low < 0 ? low >= -127 && high <= 127 : low == 0 && high <= 255;
  Require(bytes && high >= 1, "low..high must be within -127..127 or 0..255");
  const int64_t rows = static_cast<int64_t>(x.shape(0));
  const int64_t columns = static_cast<int64_t>(x.shape(1));
  const int64_t groups = (columns + kGroupDepth - 1) / kGroupDepth;
  Require(shifts.shape(0) == 0 || static_cast<int64_t>(shifts.shape(0)) == columns,
          "one shift a column, or none");
  std::vector<float> steps(groups * kGroupDepth, 1.0f);
  for (size_t k = 0; k < shifts.shape(0); ++k) {
    const int shift = shifts.data()[k];
    Require(shift < 8 && std::max(high, -low) << shift <= (low < 0 ? 127 : 255),
            "a shifted code leaves its byte");
    steps[k] = static_cast<float>(1 << shift);
  }
  Output<uint8_t, 2> codes({rows, groups * kGroupDepth});
  Output<float, 1> scales({rows});
  Output<int32_t, 1> sums({rows});
  Output<int16_t, 3> pair_sums({rows, groups, 4});
  std::fill_n(pair_sums.data(), rows * groups * 4, int16_t{0});
  run({x.data(), columns, rows, columns, shifts.shape(0) == 0 ? nullptr : steps.data(), x_scale,
       low, high, codes.data(), groups * kGroupDepth, scales.data(), sums.data(),
       low < 0 ? pair_sums.data() : nullptr});
  return nanobind::make_tuple(codes.Take(), scales.Take(), sums.Take(), pair_sums.Take());
}

Output<float, 2> GemmFloat(GemmFloatKernel* run, const Input<float, 2>& x,
                           const Input<int8_t, 2>& panel) {
  const int64_t k = static_cast<int64_t>(x.shape(1));
  Require(panel.shape(1) == kUnitCodes && static_cast<int64_t>(panel.shape(0)) * kUnitDepth >= k,
          "panel must be [ceil(K / 4), 64]");
  Output<float, 2> out({static_cast<int64_t>(x.shape(0)), kPanelColumns});
  run(x.data(), k, static_cast<int64_t>(x.shape(0)), k, panel.data(), out.data(), kPanelColumns);
  return out;
}

Output<float, 2> Epilogue(EpilogueKernel* run, const Input<int32_t, 2>& acc,
                          const Input<float, 1>& row_scales, const Input<float, 1>& scales,
                          const Input<float, 1>& bias) {
  const int64_t rows = static_cast<int64_t>(acc.shape(0));
  const int64_t columns = static_cast<int64_t>(acc.shape(1));
  Require(static_cast<int64_t>(row_scales.shape(0)) == rows, "one row scale a row");
  Require(static_cast<int64_t>(scales.shape(0)) == columns, "one scale a column");
  Require(bias.shape(0) == 1 || static_cast<int64_t>(bias.shape(0)) == columns,
          "one bias a column, or one for all");
  Output<float, 2> y({rows, columns});
  run({acc.data(), columns, rows, columns, row_scales.data(), scales.data(), bias.data(),
       bias.shape(0) == 1, y.data(), columns});
  return y;
}

// Operations or bytes of a loop, and the seconds it took.
nanobind::tuple Peak(PeakKernel* run, int loop, int64_t times, int64_t bytes) {
  Require(loop >= 0 && loop <= static_cast<int>(PeakLoop::kRead), "loop must be within 0..2");
  Require(times >= 0 && bytes >= 0 && bytes % kPeakBlock == 0, "bytes must be whole blocks");
  const std::vector<uint8_t> buffer(bytes, 1);
  const auto start = std::chrono::steady_clock::now();
  const uint64_t work = run(static_cast<PeakLoop>(loop), times, buffer.data(), bytes);
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  return nanobind::make_tuple(work, passed.count());
}

Output<float, 2> Activate(ActivationKernel* run, const Input<float, 2>& x, int kind, float alpha,
                          float beta) {
  Require(kind >= 0 && kind < kActivationKinds, "kind must be within 0..8");
  const int64_t rows = static_cast<int64_t>(x.shape(0));
  const int64_t columns = static_cast<int64_t>(x.shape(1));
  Output<float, 2> y({rows, columns});
  const Activation activation = {static_cast<ActivationKind>(kind), alpha, beta};
  run({activation, x.data(), columns, rows, columns, y.data(), columns});
  return y;
}

// One row of a family's table.
template <typename Function>
struct Variant {
  Kernel<Function> kernel;
  bool chosen;

  Function* Run() const {
    Require(kernel.Supported(), "this CPU cannot run the kernel");
    return kernel.run;
  }
};

template <auto kCall, typename Signature>
struct Caller;
template <auto kCall, typename Function, typename Result, typename... Arguments>
struct Caller<kCall, Result (*)(Function*, Arguments...)> {
  static auto Call(const Variant<Function>& variant, Arguments... arguments) {
    return Taken(kCall(variant.Run(), arguments...));
  }
};

// Makes the family's variants known, to be listed.
template <typename Function>
nanobind::class_<Variant<Function>> Bind(nanobind::module_& module, const char* name,
                                         KernelTable<Function>) {
  using Row = Variant<Function>;
  return nanobind::class_<Row>(module, name)
      .def("name", [](const Row& row) { return std::string(row.kernel.name); })
      .def("isa", [](const Row& row) { return std::string(IsaName(row.kernel.isa)); })
      .def("supported", [](const Row& row) { return row.kernel.Supported(); })
      .def("chosen", [](const Row& row) { return row.chosen; });
}

// Makes them callable as well.
template <auto kCall, typename Function>
void Bind(nanobind::module_& module, const char* name, KernelTable<Function> table) {
  Bind(module, name, table).def("__call__", &Caller<kCall, decltype(kCall)>::Call);
}

template <typename Function>
nanobind::list Variants(KernelTable<Function> table) {
  nanobind::list rows;
  for (const Kernel<Function>& row : table) {
    rows.append(nanobind::cast(Variant<Function>{row, &row == &table.Choose()}));
  }
  return rows;
}

nanobind::dict Families() {
  nanobind::dict families;
  families["unpack"] = Variants(UnpackKernels());
  families["gemm"] = Variants(GemmKernels());
  families["arrange"] = Variants(ArrangeKernels());
  families["gemm_shift"] = Variants(GemmShiftKernels());
  families["gemv"] = Variants(GemvKernels());
  families["quantize"] = Variants(QuantizeKernels());
  families["gemm_float"] = Variants(GemmFloatKernels());
  families["epilogue"] = Variants(EpilogueKernels());
  families["activation"] = Variants(ActivationKernels());
  return families;
}

// The families of one operator each; tested through it and by the self-test, so not callable.
nanobind::dict OperatorFamilies() {
  nanobind::dict families;
  families["conv_quantize"] = Variants(ConvQuantizeKernels());
  families["conv_depthwise"] = Variants(ConvDepthwiseKernels());
  families["conv_sums"] = Variants(ConvSumsKernels());
  families["lookup"] = Variants(LookupKernels());
  families["gemm_packed"] = Variants(GemmPackedKernels());
  families["gemm_wide"] = Variants(GemmWideKernels());
  families["gemm_windows"] = Variants(GemmWindowsKernels());
  families["conv_epilogue"] = Variants(ConvEpilogueKernels());
  families["requantize"] = Variants(RequantizeKernels());
  families["l1_norm"] = Variants(L1NormKernels());
  families["softmax"] = Variants(SoftmaxKernels());
  families["quantize_panels"] = Variants(QuantizePanelsKernels());
  families["row_dots"] = Variants(RowDotsKernels());
  families["row_sums"] = Variants(RowSumsKernels());
  families["l2_norm"] = Variants(L2NormKernels());
  families["peak"] = Variants(PeakKernels());
  return families;
}

}  // namespace
}  // namespace edgefold::python

NB_MODULE(_kernels, module) {
  // Tables that Python still holds at exit (a test's parameters, say) are no leak worth a page.
  nanobind::set_leak_warnings(false);
  using namespace edgefold;
  using namespace edgefold::python;
  module.doc() = "Kernel variants of the EdgeFold runtime.";
  nanobind::class_<Matrix>(module, "Matrix")
      .def(nanobind::init<Input<uint8_t, 3>, Input<uint8_t, 3>, Input<int8_t, 2>, int64_t,
                          int64_t>(),
           nanobind::arg("codes"), nanobind::arg("selectors"), nanobind::arg("table"),
           nanobind::arg("k"), nanobind::arg("n"))
      .def_prop_ro("linear", [](const Matrix& matrix) { return matrix.packed.linear; });
  nanobind::class_<Rows>(module, "Rows")
      .def(nanobind::init<Input<uint8_t, 2>, bool>(), nanobind::arg("codes"),
           nanobind::arg("is_unsigned"));

  Bind<&Unpack>(module, "Unpack", UnpackKernels());
  Bind<&Gemm>(module, "Gemm", GemmKernels());
  Bind<&Arrange>(module, "Arrange", ArrangeKernels());
  Bind<&GemmShift>(module, "GemmShift", GemmShiftKernels());
  Bind<&Gemv>(module, "Gemv", GemvKernels());
  Bind<&Quantize>(module, "Quantize", QuantizeKernels());
  Bind<&GemmFloat>(module, "GemmFloat", GemmFloatKernels());
  Bind<&Epilogue>(module, "Epilogue", EpilogueKernels());
  Bind<&Activate>(module, "Activation", ActivationKernels());
  module.def("families", Families);
  Bind(module, "ConvQuantize", ConvQuantizeKernels());
  Bind(module, "ConvDepthwise", ConvDepthwiseKernels());
  Bind(module, "ConvSums", ConvSumsKernels());
  Bind(module, "Lookup", LookupKernels());
  Bind(module, "GemmPacked", GemmPackedKernels());
  Bind(module, "GemmWide", GemmWideKernels());
  Bind(module, "GemmWindows", GemmWindowsKernels());
  Bind(module, "ConvEpilogue", ConvEpilogueKernels());
  Bind(module, "Requantize", RequantizeKernels());
  Bind(module, "L1Norm", L1NormKernels());
  Bind(module, "Softmax", SoftmaxKernels());
  Bind(module, "QuantizePanels", QuantizePanelsKernels());
  Bind(module, "RowDots", RowDotsKernels());
  Bind(module, "RowSums", RowSumsKernels());
  Bind<&Peak>(module, "Peak", PeakKernels());
  module.def("operator_families", OperatorFamilies);
  module.def("isa_error", [] {
    const char* error = SelectedIsa().error;
    return error == nullptr ? nanobind::object(nanobind::none())
                            : nanobind::object(nanobind::str(error));
  });
}
