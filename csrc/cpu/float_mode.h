// torch.set_flush_denormal and user code may leave a thread in a floating-point mode that changes
// results: the step always runs rounding to nearest with subnormals kept, and puts back what it
// found.
#ifndef EFT_CPU_FLOAT_MODE_H_
#define EFT_CPU_FLOAT_MODE_H_

#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace eft {
namespace {  // it is compiled for several instruction sets

#if defined(__x86_64__)
class FloatMode {
 public:
  FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~FloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
};
#else
class FloatMode {
 public:
  FloatMode() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FloatMode() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
};
#endif

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_FLOAT_MODE_H_
