#ifndef EFT_PYTHON_LOOP_H_
#define EFT_PYTHON_LOOP_H_

#include <pybind11/pybind11.h>

namespace eft {
void bind_loop(pybind11::module_& m);
}
#endif  // EFT_PYTHON_LOOP_H_
