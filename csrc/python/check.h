// Turns error codes into Python's exceptions (numerics.md §12).
#ifndef EFT_PYTHON_CHECK_H_
#define EFT_PYTHON_CHECK_H_

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "eft.h"

namespace eft {

inline void check(int code) {
  namespace py = pybind11;
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

}  // namespace eft
#endif  // EFT_PYTHON_CHECK_H_
