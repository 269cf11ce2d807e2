// A linear layer's product for Python.
#include "eft_layers.h"
#include "python/bind.h"
#include "python/convert.h"

namespace py = pybind11;

namespace eft {
namespace {

// Handing the GIL over takes longer than a product of fewer terms.
constexpr int64_t kLarge = 1 << 18;

void linear_cpu(int isa, int dtype, int64_t num_rows, int64_t in_features, int64_t out_features,
                Address x, Address weight, Address bias, Address y) {
  const eft_linear linear = {num_rows,
                             in_features,
                             out_features,
                             dtype,
                             at<const void>(x),
                             at<const void>(weight),
                             at<const void>(bias),
                             at<void>(y)};
  const auto call = [&] { return eft_linear_cpu(&linear, isa, 0); };
  if (num_rows * in_features * out_features < kLarge) return check(call());
  run_checked(call);
}

}  // namespace

void bind_linear(py::module_& m) { m.def("linear", &linear_cpu); }

}  // namespace eft
