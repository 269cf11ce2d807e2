// Speculative verification for Python.
#include <algorithm>

#include "python/bind.h"
#include "python/prepared.h"

namespace py = pybind11;

namespace eft {
namespace {

// A verification: a step that `prepare` made for position 0, and the strides to the other
// positions.
struct Verification {
  eft_verify verify;

  void run(int isa) const {
    run_checked([&] { return eft_verify_cpu(&verify, isa, 0); });
  }
  void run_cuda(Address stream, Address workspace, uint64_t bytes) const {
    run_checked(
        [&] { return eft_verify_cuda(&verify, at<void>(stream), at<void>(workspace), bytes); });
  }
  uint64_t workspace_bytes() const { return eft_verify_cuda_workspace_bytes(&verify); }
};

Verification prepare_verify(const Prepared& prepared, const std::vector<int64_t>& position_strides,
                            int64_t token_bitmask_position_stride, Address drafts, int num_drafts,
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
  v.token_bitmask_position_stride = token_bitmask_position_stride;
  v.num_drafts = num_drafts;
  v.drafts = at<const int64_t>(drafts);
  v.lengths = integer(lengths);
  v.draft_logits = logits_of(draft_logits);
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

}  // namespace

void bind_verify(py::module_& m) {
  py::class_<Verification>(m, "Verification")
      .def("run", &Verification::run)
      .def("run_cuda", &Verification::run_cuda)
      .def("workspace_bytes", &Verification::workspace_bytes);
  m.def("prepare_verify", &prepare_verify);
}

}  // namespace eft
