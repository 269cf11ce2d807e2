// `Lanes`, sixteen fp32 values, for the hot loops that mix logits and form masses: one register of
// AVX-512, two of AVX2. Written out because a polynomial is a chain of dependent operations:
// several interleaved chains take two thirds of the time, and no compiler interleaves them by
// itself. Where neither instruction set is compiled for, EFT_SIMD stays undefined and the scalar
// loop beside each use runs.
#ifndef EFT_CPU_SIMD_H_
#define EFT_CPU_SIMD_H_

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "cpu/simd_bits_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "cpu/simd_bits_avx2.h"
#endif

#ifdef EFT_SIMD
#include <string.h>

#include <type_traits>

#include "common/dtype.h"

namespace eft {
namespace {

// Widens sixteen logits to fp32 and keeps the largest magnitude of all that it has loaded.
template <class T>
class Loader {
 public:
  Lanes operator()(const T* x) {
    const auto bits = load_bits(x);
    most_ = larger_magnitude(most_, bits, T{});
    return widen(bits, T{});
  }
  bool within(decltype(magnitude(T{})) limit) const { return magnitudes_within(most_, limit); }

 private:
  decltype(load_bits(static_cast<const T*>(nullptr))) most_{};
};

// The same, which also keeps the largest positive logit, in no more operations.
template <class T>
class OwnerLoader {
 public:
  Lanes operator()(const T* x) {
    const auto bits = load_bits(x);
    highest_ = larger_signed(highest_, bits);
    lowest_ = larger_unsigned(lowest_, bits);
    return widen(bits, T{});
  }
  bool within(decltype(magnitude(T{})) limit) const {
    return both_within(highest_, lowest_, limit);
  }
  float highest() const {  // at least 0
    using Integer = std::make_signed_t<decltype(magnitude(T{}))>;
    Integer lanes[sizeof(highest_) / sizeof(Integer)], most = 0;
    memcpy(lanes, &highest_, sizeof(lanes));
    for (Integer lane : lanes) most = lane > most ? lane : most;
    return to_float(bit_cast<T>(most));
  }

 private:
  IntegerLanes<T> highest_{}, lowest_{};
};

}  // namespace
}  // namespace eft
#endif
#endif  // EFT_CPU_SIMD_H_
