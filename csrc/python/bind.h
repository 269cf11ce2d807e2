// The parts of the module; each adds its functions and classes to `m`.
#ifndef EFT_PYTHON_BIND_H_
#define EFT_PYTHON_BIND_H_

#include <pybind11/pybind11.h>

namespace eft {
void bind_step(pybind11::module_& m);
void bind_verify(pybind11::module_& m);  // after the step, whose `Prepared` it takes
void bind_score(pybind11::module_& m);
void bind_attention(pybind11::module_& m);
void bind_loop(pybind11::module_& m);
void bind_linear(pybind11::module_& m);
}  // namespace eft
#endif  // EFT_PYTHON_BIND_H_
