// The step and `combine` for Python.
#include "python/bind.h"
#include "python/prepared.h"

namespace py = pybind11;

namespace eft {

eft_step mixture(int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
                 const std::vector<Real>& weights, const Strided& bias,
                 const Strided& token_bitmask, const Conservative& conservative,
                 const Special& special) {
  if (logits.size() > EFT_MAX_MODELS || logits.size() != weights.size()) {
    throw py::value_error("logits: expected 1 to 4 models and as many weights");
  }
  eft_step step{};
  step.num_rows = num_rows;
  step.vocab_size = vocab_size;
  step.num_models = int32_t(logits.size());
  for (size_t k = 0; k < logits.size(); ++k) {
    step.logits[k] = logits_of(logits[k]);
    step.weights[k] = real(weights[k]);
  }
  step.temperature.value = step.top_p.value = step.conservative_top_p.value = 1.0f;
  step.bias = at<const float>(std::get<0>(bias));
  step.bias_row_stride = std::get<1>(bias);
  step.token_bitmask = at<const int32_t>(std::get<0>(token_bitmask));
  step.token_bitmask_row_stride = std::get<1>(token_bitmask);
  step.special = {at<const int32_t>(std::get<0>(special)), at<const int32_t>(std::get<1>(special)),
                  std::get<2>(special)};
  step.conservative = std::get<0>(conservative);
  step.conservative_drop = std::get<1>(conservative);
  step.conservative_top_p = real(std::get<2>(conservative));
  return step;
}

eft_step Prepared::with(Address tokens) const {
  eft_step s = step;
  s.tokens = at<int64_t>(tokens);
  return s;
}

eft_step Prepared::with(Address tokens, const py::args& logits) const {
  if (logits.size() != size_t(step.num_models)) {
    throw py::value_error("logits: expected one address for each model");
  }
  eft_step s = with(tokens);
  for (size_t k = 0; k < logits.size(); ++k) {
    s.logits[k].data = at<const void>(logits[k].cast<Address>());
  }
  return s;
}

eft_step Prepared::next(Address tokens, int64_t seed, int64_t position,
                        const py::args& logits) const {
  eft_step s = with(tokens, logits);
  s.seed = {nullptr, seed};
  s.position = {nullptr, position};
  return s;
}

namespace {

void on_cpu(const eft_step& s, int isa) {
  run_checked([&] { return eft_step_cpu(&s, isa, 0); });
}
void on_cuda(const eft_step& s, Address stream, Address workspace, uint64_t bytes) {
  run_checked([&] { return eft_step_cuda(&s, at<void>(stream), at<void>(workspace), bytes); });
}

}  // namespace

void Prepared::run(int isa, Address tokens) const { on_cpu(with(tokens), isa); }

void Prepared::run_next(int isa, Address tokens, int64_t seed, int64_t position,
                        const py::args& logits) const {
  on_cpu(next(tokens, seed, position, logits), isa);
}

void Prepared::run_logits(int isa, Address tokens, const py::args& logits) const {
  on_cpu(with(tokens, logits), isa);
}

void Prepared::run_cuda(Address stream, Address tokens, Address workspace, uint64_t bytes) const {
  on_cuda(with(tokens), stream, workspace, bytes);
}

void Prepared::run_next_cuda(Address stream, Address tokens, Address workspace, uint64_t bytes,
                             int64_t seed, int64_t position, const py::args& logits) const {
  on_cuda(next(tokens, seed, position, logits), stream, workspace, bytes);
}

namespace {

using Details =
    std::tuple<Address, Address, Address, Address, Address, Address, Address, Address, int>;

Prepared prepare(int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
                 const std::vector<Real>& weights, const Strided& bias,
                 const Strided& token_bitmask, const Conservative& conservative,
                 const Special& special, const Real& temperature, const Integer& top_k,
                 const Real& top_p, const Real& min_p, const Integer& seed, const Integer& position,
                 const Details& details) {
  eft_step s =
      mixture(num_rows, vocab_size, logits, weights, bias, token_bitmask, conservative, special);
  s.temperature = real(temperature);
  s.top_k = integer(top_k);
  s.top_p = real(top_p);
  s.min_p = real(min_p);
  s.seed = integer(seed);
  s.position = integer(position);
  const auto& [logprobs, raw, model, entropy, num_kept, top_ids, top_logprobs, status, num_top] =
      details;
  s.details = {at<float>(logprobs),     at<float>(raw),        at<float>(model),
               at<float>(entropy),      at<int32_t>(num_kept), at<int64_t>(top_ids),
               at<float>(top_logprobs), at<int32_t>(status),   num_top};
  return {s};
}

void combine(int isa, int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
             const std::vector<Real>& weights, const Strided& bias, const Strided& token_bitmask,
             const Conservative& conservative, const Special& special, Address z,
             int64_t z_row_stride) {
  const eft_step s =
      mixture(num_rows, vocab_size, logits, weights, bias, token_bitmask, conservative, special);
  run_checked([&] { return eft_combine_cpu(&s, at<float>(z), z_row_stride, isa); });
}

void combine_cuda(Address stream, Address workspace, uint64_t bytes, int64_t num_rows,
                  int64_t vocab_size, const std::vector<Logits>& logits,
                  const std::vector<Real>& weights, const Strided& bias,
                  const Strided& token_bitmask, const Conservative& conservative,
                  const Special& special, Address z, int64_t z_row_stride) {
  const eft_step s =
      mixture(num_rows, vocab_size, logits, weights, bias, token_bitmask, conservative, special);
  check(eft_combine_cuda(&s, at<float>(z), z_row_stride, at<void>(stream), at<void>(workspace),
                         bytes));
}

uint64_t combine_workspace_bytes(int64_t num_rows, int64_t vocab_size,
                                 const std::vector<Logits>& logits,
                                 const std::vector<Real>& weights, const Strided& bias,
                                 const Strided& token_bitmask, const Conservative& conservative,
                                 const Special& special) {
  const eft_step s =
      mixture(num_rows, vocab_size, logits, weights, bias, token_bitmask, conservative, special);
  return eft_cuda_workspace_bytes(&s);
}

}  // namespace

void bind_step(py::module_& m) {
  py::class_<Prepared>(m, "Prepared")
      .def("run", &Prepared::run)
      .def("run_next", &Prepared::run_next)
      .def("run_logits", &Prepared::run_logits)
      .def("run_cuda", &Prepared::run_cuda)
      .def("run_next_cuda", &Prepared::run_next_cuda)
      .def("workspace_bytes", &Prepared::workspace_bytes);
  m.def("prepare", &prepare);
  m.def("combine", &combine);
  m.def("combine_cuda", &combine_cuda);
  m.def("combine_workspace_bytes", &combine_workspace_bytes);
}

}  // namespace eft
