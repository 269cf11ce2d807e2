// The Python module of libeft: addresses become calls, error codes become exceptions. No tensor
// types.
#include "eft.h"
#include "python/bind.h"

PYBIND11_MODULE(_native, m) {
  eft::bind_step(m);
  eft::bind_verify(m);
  eft::bind_score(m);
  eft::bind_loop(m);
  m.def("version", &eft_version);
  m.def("cpu_best_isa", &eft_cpu_best_isa);
  m.def("cuda_built", [] { return eft_cuda_built() != 0; });
  m.def("cuda_architectures", &eft_cuda_architectures);
}
