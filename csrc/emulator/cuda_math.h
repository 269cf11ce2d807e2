// Integer, rounding and conversion intrinsics.
#ifndef EFT_EMULATOR_CUDA_MATH_H_
#define EFT_EMULATOR_CUDA_MATH_H_

namespace simt {
template <class To, class From>
inline To cast_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace simt

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline uint32_t __brev(uint32_t x) {
  uint32_t y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1) << (31 - i);
  return y;
}
inline uint64_t __brevll(uint64_t x) {
  return uint64_t(__brev(uint32_t(x))) << 32 | __brev(uint32_t(x >> 32));
}
inline uint32_t __umulhi(uint32_t x, uint32_t y) { return uint32_t(uint64_t(x) * y >> 32); }
inline uint64_t __umul64hi(uint64_t x, uint64_t y) {
  return uint64_t((unsigned __int128)(x)*y >> 64);
}
inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t by) {
  return uint32_t((uint64_t(high) << 32 | low) << (by & 31) >> 32);
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t by) {
  return uint32_t((uint64_t(high) << 32 | low) >> (by & 31));
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = selector >> (4 * i) & 15;
    uint32_t byte = uint32_t(bytes >> (8 * (pick & 7))) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline uint32_t __float_as_uint(float x) { return simt::cast_bits<uint32_t>(x); }
inline int __float_as_int(float x) { return simt::cast_bits<int>(x); }
inline float __uint_as_float(uint32_t x) { return simt::cast_bits<float>(x); }
inline float __int_as_float(int x) { return simt::cast_bits<float>(x); }
inline long long __double_as_longlong(double x) { return simt::cast_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return simt::cast_bits<double>(x); }

namespace simt {
// Conversions to integers saturate, and NaN gives 0, as on a device.
template <class To, class From>
inline To saturated(From x) {
  constexpr double kEnd = sizeof(To) == 4 ? 0x1p32 : 0x1p64;
  constexpr bool kSigned = std::is_signed_v<To>;
  if (!(x == x)) return 0;
  if (double(x) >= (kSigned ? kEnd / 2 : kEnd))
    return To(~To(0)) < 0 ? To(~(To(1) << (8 * sizeof(To) - 1))) : To(~To(0));
  if (double(x) < (kSigned ? -kEnd / 2 : 0)) return kSigned ? To(To(1) << (8 * sizeof(To) - 1)) : 0;
  return To(x);
}
}  // namespace simt
inline int __float2int_rz(float x) { return simt::saturated<int>(truncf(x)); }
inline int __float2int_rd(float x) { return simt::saturated<int>(floorf(x)); }
inline int __float2int_rn(float x) { return simt::saturated<int>(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return simt::saturated<unsigned>(truncf(x)); }
inline unsigned __float2uint_rn(float x) { return simt::saturated<unsigned>(rintf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

#define EFT_HOST_MIN_MAX(T)                        \
  inline T min(T x, T y) { return y < x ? y : x; } \
  inline T max(T x, T y) { return x < y ? y : x; }
EFT_HOST_MIN_MAX(int)
EFT_HOST_MIN_MAX(unsigned)
EFT_HOST_MIN_MAX(long)
EFT_HOST_MIN_MAX(unsigned long)
EFT_HOST_MIN_MAX(long long)
EFT_HOST_MIN_MAX(unsigned long long)
#undef EFT_HOST_MIN_MAX
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }

#endif  // EFT_EMULATOR_CUDA_MATH_H_
