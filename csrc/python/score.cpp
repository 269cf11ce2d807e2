// Scoring for Python.
#include "python/bind.h"
#include "python/convert.h"

namespace py = pybind11;

namespace eft {
namespace {

// A call to score, on the CPU or on CUDA.
struct Scoring {
  eft_score score;

  void run(int isa) const {
    run_checked([&] { return eft_score_cpu(&score, isa, 0); });
  }
  void run_cuda(Address stream, Address workspace, uint64_t bytes) const {
    run_checked(
        [&] { return eft_score_cuda(&score, at<void>(stream), at<void>(workspace), bytes); });
  }
  uint64_t workspace_bytes() const { return eft_score_cuda_workspace_bytes(&score); }
};

// `fields` are the addresses of eft_score_stats in its order.
Scoring prepare_score(int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
                      const std::vector<Real>& weights, const Strided& bias,
                      const Strided& token_bitmask, const Conservative& conservative,
                      const Special& special, Address targets, int64_t ignore_index, int compared,
                      const std::vector<Address>& fields, int num_top, int num_changed) {
  if (fields.size() != 17) throw py::value_error("fields: expected 17 addresses");
  eft_score s{};
  s.mixture =
      mixture(num_rows, vocab_size, logits, weights, bias, token_bitmask, conservative, special);
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

}  // namespace

void bind_score(py::module_& m) {
  py::class_<Scoring>(m, "Scoring")
      .def("run", &Scoring::run)
      .def("run_cuda", &Scoring::run_cuda)
      .def("workspace_bytes", &Scoring::workspace_bytes);
  m.def("prepare_score", &prepare_score);
}

}  // namespace eft
