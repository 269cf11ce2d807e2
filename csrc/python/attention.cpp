// Attention for Python.
#include <array>

#include "eft_layers.h"
#include "python/bind.h"
#include "python/convert.h"

namespace py = pybind11;

namespace eft {
namespace {

// Of a tensor with four dimensions, as its tuple of numbers.
std::array<int64_t, 4> four(const py::tuple& given) {
  if (given.size() != 4) throw py::value_error("attention: expected four dimensions");
  std::array<int64_t, 4> numbers;
  for (int i = 0; i < 4; ++i) numbers[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(given.ptr(), i));
  if (PyErr_Occurred()) throw py::error_already_set();
  return numbers;
}

// Shapes and strides are the tensors' own; the mask's shape may be 1 where it is for all.
void attention(int isa, int dtype, float scale, Address q, Address k, Address v, Address out,
               const py::tuple& q_shape, const py::tuple& k_shape, const py::tuple& q_strides,
               const py::tuple& k_strides, const py::tuple& v_strides, const py::tuple& out_strides,
               Address mask, int mask_dtype, const py::tuple& mask_shape,
               const py::tuple& mask_strides) {
  eft_attention a{};
  const auto of_q = four(q_shape), of_k = four(k_shape);
  a.batch = of_q[0];
  a.num_heads = of_q[1];
  a.num_kv_heads = of_k[1];
  a.num_queries = of_q[2];
  a.num_slots = of_k[2];
  a.head_dim = of_q[3];
  a.q = eft::at<const void>(q);
  a.k = eft::at<const void>(k);
  a.v = eft::at<const void>(v);
  a.out = eft::at<void>(out);
  const auto set = [](int64_t* strides, const py::tuple& given) {
    const auto all = four(given);
    for (int i = 0; i < 3; ++i) strides[i] = all[i];
  };
  set(a.q_strides, q_strides);
  set(a.k_strides, k_strides);
  set(a.v_strides, v_strides);
  set(a.out_strides, out_strides);
  a.dtype = dtype;
  a.scale = scale;
  if (mask) {
    a.mask = eft::at<const void>(mask);
    a.mask_dtype = mask_dtype;
    set(a.mask_strides, mask_strides);
    const auto shape = four(mask_shape);
    for (int i = 0; i < 3; ++i) a.mask_strides[i] *= shape[i] > 1;
  }
  run_checked([&] { return eft_attention_cpu(&a, isa, 0); });
}

}  // namespace

void bind_attention(py::module_& m) { m.def("attention", &attention); }

}  // namespace eft
