// Addresses into calls, error codes into exceptions: all that Python sees of libeft. No tensor
// types here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "eft.h"
#include "python/check.h"
#include "python/loop.h"

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

using eft::check;

template <class Call>
int without_gil(const Call& call) {
  py::gil_scoped_release release;
  return call();
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

  void run(int isa, Address tokens) const {
    eft_step s = step;
    s.tokens = at<int64_t>(tokens);
    check(without_gil([&] { return eft_step_cpu(&s, isa, 0); }));
  }

  // The next token of a loop: other logits, another seed and position (both for all rows).
  void run_next(int isa, Address tokens, int64_t seed, int64_t position,
                const py::args& logits) const {
    const eft_step s = next(tokens, seed, position, logits);
    check(without_gil([&] { return eft_step_cpu(&s, isa, 0); }));
  }

  // The same with the seeds and positions that it was prepared with, which stay where they are.
  void run_logits(int isa, Address tokens, const py::args& logits) const {
    eft_step s = step;
    replace(s, logits);
    s.tokens = at<int64_t>(tokens);
    check(without_gil([&] { return eft_step_cpu(&s, isa, 0); }));
  }

  void run_cuda(Address stream, Address tokens, Address workspace, uint64_t bytes) const {
    eft_step s = step;
    s.tokens = at<int64_t>(tokens);
    launch(s, stream, workspace, bytes);
  }

  void run_next_cuda(Address stream, Address tokens, Address workspace, uint64_t bytes,
                     int64_t seed, int64_t position, const py::args& logits) const {
    launch(next(tokens, seed, position, logits), stream, workspace, bytes);
  }

  uint64_t workspace_bytes() const { return eft_cuda_workspace_bytes(&step); }

 private:
  static void launch(const eft_step& s, Address stream, Address workspace, uint64_t bytes) {
    check(without_gil(
        [&] { return eft_step_cuda(&s, at<void>(stream), at<void>(workspace), bytes); }));
  }

  eft_step next(Address tokens, int64_t seed, int64_t position, const py::args& logits) const {
    eft_step next = step;
    replace(next, logits);
    next.seed = {nullptr, seed};
    next.position = {nullptr, position};
    next.tokens = at<int64_t>(tokens);
    return next;
  }

  static void replace(eft_step& next, const py::args& logits) {
    if (logits.size() != size_t(next.num_models)) {
      throw py::value_error("logits: expected one address for each model");
    }
    for (size_t k = 0; k < logits.size(); ++k) {
      next.logits[k].data = at<const void>(logits[k].cast<Address>());
    }
  }
};

Prepared prepare(int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
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
  return {s};
}

// Speculative verification of a step that `prepare` made: position 0, and the strides to the
// others.
struct Verification {
  eft_verify verify;

  void run(int isa) const {
    int code;
    {
      py::gil_scoped_release release;
      code = eft_verify_cpu(&verify, isa, 0);
    }
    check(code);
  }

  void run_cuda(Address stream, Address workspace, uint64_t bytes) const {
    int code;
    {
      py::gil_scoped_release release;
      code = eft_verify_cuda(&verify, at<void>(stream), at<void>(workspace), bytes);
    }
    check(code);
  }

  uint64_t workspace_bytes() const { return eft_verify_cuda_workspace_bytes(&verify); }
};

Verification prepare_verify(const Prepared& prepared, const std::vector<int64_t>& position_strides,
                            int64_t allowed_position_stride, Address drafts, int num_drafts,
                            const Integer& lengths, const Logits& draft_logits,
                            int64_t draft_position_stride, const Real& draft_temperature,
                            const Integer& draft_top_k, const Real& draft_top_p,
                            const Real& draft_min_p, Address tokens, Address num_accepted,
                            Address status) {
  eft_verify v{};
  v.step = prepared.step;
  if (position_strides.size() != size_t(v.step.num_models)) {
    throw py::value_error("position_strides: expected one for each model");
  }
  std::copy(position_strides.begin(), position_strides.end(), v.logits_position_stride);
  v.allowed_position_stride = allowed_position_stride;
  v.num_drafts = num_drafts;
  v.drafts = at<const int64_t>(drafts);
  v.lengths = integer(lengths);
  v.draft_logits = {at<const void>(std::get<0>(draft_logits)), std::get<1>(draft_logits),
                    std::get<2>(draft_logits)};
  v.draft_position_stride = draft_position_stride;
  v.draft_temperature = real(draft_temperature);
  v.draft_top_k = integer(draft_top_k);
  v.draft_top_p = real(draft_top_p);
  v.draft_min_p = real(draft_min_p);
  v.tokens = at<int64_t>(tokens);
  v.num_accepted = at<int64_t>(num_accepted);
  v.status = at<int32_t>(status);
  return {v};
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

// A call to score, which runs where its tensors are.
struct Scoring {
  eft_score score;

  void run(int isa) const {
    check(without_gil([&] { return eft_score_cpu(&score, isa, 0); }));
  }
  void run_cuda(Address stream, Address workspace, uint64_t bytes) const {
    check(without_gil(
        [&] { return eft_score_cuda(&score, at<void>(stream), at<void>(workspace), bytes); }));
  }
  uint64_t workspace_bytes() const { return eft_score_cuda_workspace_bytes(&score); }
};

// `fields` are the addresses of eft_score_stats in its order.
Scoring prepare_score(int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
                      const std::vector<Real>& weights, const Strided& bias, const Strided& allowed,
                      const Conservative& conservative, Address targets, int64_t ignore_index,
                      int compared, const std::vector<Address>& fields, int num_top,
                      int num_changed) {
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
  return {s};
}

void combine_cuda(Address stream, Address workspace, uint64_t bytes, int64_t num_rows,
                  int64_t vocab_size, const std::vector<Logits>& logits,
                  const std::vector<Real>& weights, const Strided& bias, const Strided& allowed,
                  const Conservative& conservative, Address z, int64_t z_row_stride) {
  const eft_step s = mixture(num_rows, vocab_size, logits, weights, bias, allowed, conservative);
  check(eft_combine_cuda(&s, at<float>(z), z_row_stride, at<void>(stream), at<void>(workspace),
                         bytes));
}

uint64_t combine_workspace_bytes(int64_t num_rows, int64_t vocab_size,
                                 const std::vector<Logits>& logits,
                                 const std::vector<Real>& weights, const Strided& bias,
                                 const Strided& allowed, const Conservative& conservative) {
  const eft_step s = mixture(num_rows, vocab_size, logits, weights, bias, allowed, conservative);
  return eft_cuda_workspace_bytes(&s);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  py::class_<Prepared>(m, "Prepared")
      .def("run", &Prepared::run)
      .def("run_next", &Prepared::run_next)
      .def("run_logits", &Prepared::run_logits)
      .def("run_cuda", &Prepared::run_cuda)
      .def("run_next_cuda", &Prepared::run_next_cuda)
      .def("workspace_bytes", &Prepared::workspace_bytes);
  eft::bind_loop(m);
  m.def("prepare", &prepare);
  m.def("combine", &combine);
  m.def("combine_cuda", &combine_cuda);
  m.def("combine_workspace_bytes", &combine_workspace_bytes);
  m.attr("CUDA_TICKET_BYTES") = EFT_CUDA_TICKET_BYTES;
  py::class_<Verification>(m, "Verification")
      .def("run", &Verification::run)
      .def("run_cuda", &Verification::run_cuda)
      .def("workspace_bytes", &Verification::workspace_bytes);
  m.def("prepare_verify", &prepare_verify);
  py::class_<Scoring>(m, "Scoring")
      .def("run", &Scoring::run)
      .def("run_cuda", &Scoring::run_cuda)
      .def("workspace_bytes", &Scoring::workspace_bytes);
  m.def("prepare_score", &prepare_score);
  m.def("version", &eft_version);
  m.def("cpu_best_isa", &eft_cpu_best_isa);
  m.def("cuda_built", [] { return eft_cuda_built() != 0; });
  m.def("cuda_architectures", &eft_cuda_architectures);
}
