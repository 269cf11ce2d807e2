// Turns Python's arguments into the types of the C interface: addresses and numbers, no tensors.
#ifndef EFT_PYTHON_CONVERT_H_
#define EFT_PYTHON_CONVERT_H_

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <vector>

#include "eft.h"
#include "python/check.h"

namespace eft {

using Address = std::uintptr_t;
using Logits = std::tuple<Address, int64_t, int>;  // data, row stride, dtype
using Real = std::tuple<float, Address, int64_t>;  // value, rows, stride
using Integer = std::tuple<int64_t, Address>;      // value, rows
using Strided = std::tuple<Address, int64_t>;      // data, row stride
using Conservative =
    std::tuple<int, bool, Real>;  // 1 + defining model (0 off), drop outside, top_p
using Special = std::tuple<Address, Address, int>;  // tiles, masks, owner

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

inline eft_real real(const Real& r) {
  return {at<const float>(std::get<1>(r)), std::get<2>(r), std::get<0>(r)};
}
inline eft_integer integer(const Integer& i) {
  return {at<const int64_t>(std::get<1>(i)), std::get<0>(i)};
}
inline eft_logits logits_of(const Logits& l) {
  return {at<const void>(std::get<0>(l)), std::get<1>(l), std::get<2>(l)};
}

// A step's first fields: what is mixed and how, without sampling options.
eft_step mixture(int64_t num_rows, int64_t vocab_size, const std::vector<Logits>& logits,
                 const std::vector<Real>& weights, const Strided& bias,
                 const Strided& token_bitmask, const Conservative& conservative,
                 const Special& special);

// Calls the library without the GIL; a failure becomes an exception.
template <class Call>
void run_checked(const Call& call) {
  int code;
  {
    pybind11::gil_scoped_release release;
    code = call();
  }
  check(code);
}

}  // namespace eft
#endif  // EFT_PYTHON_CONVERT_H_
