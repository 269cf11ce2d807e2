// Addresses into calls, error codes into exceptions: all that Python sees of libeft. No tensor
// types here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "eft.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;
using Logits = std::tuple<Address, int64_t, int>;  // data, row stride, dtype
using Real = std::tuple<float, Address, int64_t>;  // value, rows, stride
using Integer = std::tuple<int64_t, Address>;      // value, rows
using Strided = std::tuple<Address, int64_t>;      // data, row stride
using Details =
    std::tuple<Address, Address, Address, Address, Address, Address, Address, Address, int>;
using Conservative =
    std::tuple<int, bool, Real>;  // 1 + defining model (0 off), drop outside, top_p

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

eft_real real(const Real& r) {
  return {at<const float>(std::get<1>(r)), std::get<2>(r), std::get<0>(r)};
}
eft_integer integer(const Integer& i) {
  return {at<const int64_t>(std::get<1>(i)), std::get<0>(i)};
}

void check(int code) {
  if (code == EFT_OK) return;
  const std::string message = eft_last_error();
  if (code == EFT_BAD_ARGUMENT) throw py::value_error(message);
  if (code == EFT_UNSUPPORTED) {
    PyErr_SetString(PyExc_NotImplementedError, message.c_str());
    throw py::error_already_set();
  }
  if (code == EFT_NO_MEMORY) {
    PyErr_SetString(PyExc_MemoryError, message.c_str());
    throw py::error_already_set();
  }
  throw std::runtime_error(message);
}

eft_step mixture(int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
                 const std::vector<Real>& weights, const Strided& bias, const Strided& allowed,
                 const Conservative& conservative) {
  if (logits.size() > EFT_MAX_MODELS || logits.size() != weights.size()) {
    throw py::value_error("logits: expected 1 to 4 models and as many weights");
  }
  eft_step step{};
  step.num_rows = num_rows;
  step.vocab_size = vocab_size;
  step.num_models = int32_t(logits.size());
  for (size_t k = 0; k < logits.size(); ++k) {
    step.logits[k] = {at<const void>(std::get<0>(logits[k])), std::get<1>(logits[k]),
                      std::get<2>(logits[k])};
    step.weights[k] = real(weights[k]);
  }
  step.temperature.value = step.top_p.value = step.conservative_top_p.value = 1.0f;
  step.bias = at<const float>(std::get<0>(bias));
  step.bias_row_stride = std::get<1>(bias);
  step.allowed = at<const int32_t>(std::get<0>(allowed));
  step.allowed_row_stride = std::get<1>(allowed);
  step.conservative = std::get<0>(conservative);
  step.conservative_drop = std::get<1>(conservative);
  step.conservative_top_p = real(std::get<2>(conservative));
  return step;
}

// A step whose addresses may be replaced: what stays the same from token to token is converted
// once.
struct Prepared {
  eft_step step;
  bool cuda;

  // isa_or_stream: EFT_ISA_* on the CPU, the stream's address on CUDA.
  void run(Address isa_or_stream, Address tokens) const { launch(step, isa_or_stream, tokens); }

  // The next token of a loop: other logits, another seed and position (both for all rows).
  void run_next(int isa, Address tokens, int64_t seed, int64_t position,
                const py::args& logits) const {
    eft_step next = step;
    if (logits.size() != size_t(next.num_models)) {
      throw py::value_error("logits: expected one address for each model");
    }
    for (size_t k = 0; k < logits.size(); ++k) {
      next.logits[k].data = at<const void>(logits[k].cast<Address>());
    }
    next.seed = {nullptr, seed};
    next.position = {nullptr, position};
    launch(next, Address(isa), tokens);
  }

 private:
  void launch(eft_step s, Address isa_or_stream, Address tokens) const {
    s.tokens = at<int64_t>(tokens);
    int code;
    {
      py::gil_scoped_release release;
      code = cuda ? eft_step_cuda(&s, at<void>(isa_or_stream))
                  : eft_step_cpu(&s, int(isa_or_stream), 0);
    }
    check(code);
  }
};

Prepared prepare(bool cuda, int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
                 const std::vector<Real>& weights, const Strided& bias, const Strided& allowed,
                 const Conservative& conservative, const Real& temperature, const Integer& top_k,
                 const Real& top_p, const Real& min_p, const Integer& seed, const Integer& position,
                 const Details& details) {
  eft_step s = mixture(num_rows, vocab_size, logits, weights, bias, allowed, conservative);
  s.temperature = real(temperature);
  s.top_k = integer(top_k);
  s.top_p = real(top_p);
  s.min_p = real(min_p);
  s.seed = integer(seed);
  s.position = integer(position);
  const auto& [logprobs, raw, model, entropy, kept, top_ids, top_logprobs, status, num_top] =
      details;
  s.details = {at<float>(logprobs),     at<float>(raw),      at<float>(model),
               at<float>(entropy),      at<int32_t>(kept),   at<int64_t>(top_ids),
               at<float>(top_logprobs), at<int32_t>(status), num_top};
  return {s, cuda};
}

void combine(int isa, int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
             const std::vector<Real>& weights, const Strided& bias, const Strided& allowed,
             const Conservative& conservative, Address z, int64_t z_row_stride) {
  const eft_step s = mixture(num_rows, vocab_size, logits, weights, bias, allowed, conservative);
  int code;
  {
    py::gil_scoped_release release;
    code = eft_combine_cpu(&s, at<float>(z), z_row_stride, isa);
  }
  check(code);
}

// `fields` are the addresses of eft_score_stats in its order.
void score(int isa, int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
           const std::vector<Real>& weights, const Strided& bias, const Strided& allowed,
           const Conservative& conservative, Address targets, int64_t ignore_index, int compared,
           const std::vector<Address>& fields, int num_top, int num_changed) {
  if (fields.size() != 17) throw py::value_error("fields: expected 17 addresses");
  eft_score s{};
  s.mixture = mixture(num_rows, vocab_size, logits, weights, bias, allowed, conservative);
  s.targets = at<const int64_t>(targets);
  s.ignore_index = ignore_index;
  s.compared = compared;
  const auto f = [&](int i) { return at<float>(fields[i]); };
  const auto id = [&](int i) { return at<int64_t>(fields[i]); };
  s.stats = {at<double>(fields[0]),
             f(1),
             f(2),
             f(3),
             f(4),
             f(5),
             id(6),
             id(7),
             id(8),
             f(9),
             f(10),
             f(11),
             id(12),
             f(13),
             id(14),
             f(15),
             at<int32_t>(fields[16]),
             num_top,
             num_changed};
  int code;
  {
    py::gil_scoped_release release;
    code = eft_score_cpu(&s, isa, 0);
  }
  check(code);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  py::class_<Prepared>(m, "Prepared")
      .def("run", &Prepared::run)
      .def("run_next", &Prepared::run_next);
  m.def("prepare", &prepare);
  m.def("combine", &combine);
  m.def("score", &score);
  m.def("version", &eft_version);
  m.def("cpu_best_isa", &eft_cpu_best_isa);
  m.def("cuda_built", [] { return eft_cuda_built() != 0; });
  m.def("cuda_architectures", &eft_cuda_architectures);
}
