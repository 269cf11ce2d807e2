// CUDA's vector types, and loads and stores with cache hints.
#ifndef EFT_EMULATOR_CUDA_VECTORS_H_
#define EFT_EMULATOR_CUDA_VECTORS_H_

#define EFT_HOST_VECTORS(T, name)                                               \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                            \
  struct name##3 { T x, y, z; };                                                \
  struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                    \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }            \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EFT_HOST_VECTORS(unsigned char, uchar)
EFT_HOST_VECTORS(short, short)
EFT_HOST_VECTORS(unsigned short, ushort)
EFT_HOST_VECTORS(int, int)
EFT_HOST_VECTORS(unsigned, uint)
EFT_HOST_VECTORS(float, float)
EFT_HOST_VECTORS(double, double)
EFT_HOST_VECTORS(long long, longlong)
EFT_HOST_VECTORS(unsigned long long, ulonglong)
#undef EFT_HOST_VECTORS

// A vector is loaded and stored as a whole, at an address aligned to its size: UBSan reports
// others.
#define EFT_HOST_LOAD(name)    \
  template <class T>           \
  inline T name(const T* at) { \
    simt::count_load();        \
    return *at;                \
  }
#define EFT_HOST_STORE(name)                             \
  template <class T>                                     \
  inline void name(T* at, std::common_type_t<T> value) { \
    *at = value;                                         \
  }
EFT_HOST_LOAD(__ldg)
EFT_HOST_LOAD(__ldca)
EFT_HOST_LOAD(__ldcg)
EFT_HOST_LOAD(__ldcs)
EFT_HOST_LOAD(__ldlu)
EFT_HOST_LOAD(__ldcv)
EFT_HOST_STORE(__stwb)
EFT_HOST_STORE(__stcg)
EFT_HOST_STORE(__stcs)
EFT_HOST_STORE(__stwt)
#undef EFT_HOST_LOAD
#undef EFT_HOST_STORE

#endif  // EFT_EMULATOR_CUDA_VECTORS_H_
