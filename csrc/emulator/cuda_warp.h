// Warp primitives. Every lane of the mask must reach the same call. All of them receive all values,
// and each computes its own result.
#ifndef EFT_EMULATOR_CUDA_WARP_H_
#define EFT_EMULATOR_CUDA_WARP_H_

namespace simt {

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// Returns the value of lane `source`, or the caller's own if `source` is not inside its segment of
// the warp.
template <class T>
T shuffle(const Site& site, uint32_t mask, T value, int source, bool inside) {
  const uint64_t* lanes = warp_exchange(site, mask, to_bits(value), false);
  if (!inside) return value;
  if (!(mask >> source & 1))
    fail(site, "reads lane " + std::to_string(source) + ", which is not in the mask");
  return from_bits<T>(lanes[source]);
}

template <class T, class Join>
T reduce(const Site& site, uint32_t mask, T value, Join join) {
  const uint64_t* lanes = warp_exchange(site, mask, to_bits(value), false);
  bool first = true;
  T result = value;
  for (int l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    const T other = from_bits<T>(lanes[l]);
    result = first ? other : join(result, other);
    first = false;
  }
  return result;
}

inline uint32_t ballot(const Site& site, uint32_t mask, bool vote) {
  const uint64_t* lanes = warp_exchange(site, mask, vote, false);
  uint32_t votes = 0;
  for (int l = 0; l < 32; ++l) votes |= uint32_t(mask >> l & 1 && lanes[l]) << l;
  return votes;
}

}  // namespace simt

inline void __syncwarp(uint32_t mask = 0xffffffffu, EFT_HOST_SITE) {
  simt::warp_exchange({"__syncwarp", file, line}, mask, 0, true);
}

template <class T>
T __shfl_sync(uint32_t mask, T value, int from, int width = 32, EFT_HOST_SITE) {
  const int me = int(simt::lane()), part = me & ~(width - 1);
  return simt::shuffle<T>({"__shfl_sync", file, line}, mask, value, part | (from & (width - 1)),
                          true);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned by, int width = 32, EFT_HOST_SITE) {
  const int me = int(simt::lane()), from = me - int(by);
  return simt::shuffle<T>({"__shfl_up_sync", file, line}, mask, value, from,
                          from >= (me & ~(width - 1)));
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned by, int width = 32, EFT_HOST_SITE) {
  const int me = int(simt::lane()), from = me + int(by);
  return simt::shuffle<T>({"__shfl_down_sync", file, line}, mask, value, from,
                          from <= (me | (width - 1)));
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int with, int width = 32, EFT_HOST_SITE) {
  const int me = int(simt::lane()), from = me ^ with;
  return simt::shuffle<T>({"__shfl_xor_sync", file, line}, mask, value, from,
                          from <= (me | (width - 1)));
}

inline uint32_t __ballot_sync(uint32_t mask, int vote, EFT_HOST_SITE) {
  return simt::ballot({"__ballot_sync", file, line}, mask, vote);
}
inline int __any_sync(uint32_t mask, int vote, EFT_HOST_SITE) {
  return simt::ballot({"__any_sync", file, line}, mask, vote) != 0;
}
inline int __all_sync(uint32_t mask, int vote, EFT_HOST_SITE) {
  return simt::ballot({"__all_sync", file, line}, mask, vote) == mask;
}
template <class T>
uint32_t __match_any_sync(uint32_t mask, T value, EFT_HOST_SITE) {
  const uint64_t own = simt::to_bits(value);
  const uint64_t* lanes = simt::warp_exchange({"__match_any_sync", file, line}, mask, own, false);
  uint32_t same = 0;
  for (int l = 0; l < 32; ++l) same |= uint32_t(mask >> l & 1 && lanes[l] == own) << l;
  return same;
}

#define EFT_HOST_REDUCE(name, T, expression)                        \
  inline T name(uint32_t mask, T value, EFT_HOST_SITE) {            \
    return simt::reduce<T>({#name, file, line}, mask, value,        \
                           [](T x, T y) { return T(expression); }); \
  }
EFT_HOST_REDUCE(__reduce_add_sync, unsigned, x + y)
EFT_HOST_REDUCE(__reduce_add_sync, int, unsigned(x) + unsigned(y))
EFT_HOST_REDUCE(__reduce_max_sync, unsigned, x < y ? y : x)
EFT_HOST_REDUCE(__reduce_max_sync, int, x < y ? y : x)
EFT_HOST_REDUCE(__reduce_min_sync, unsigned, y < x ? y : x)
EFT_HOST_REDUCE(__reduce_min_sync, int, y < x ? y : x)
EFT_HOST_REDUCE(__reduce_and_sync, unsigned, x& y)
EFT_HOST_REDUCE(__reduce_or_sync, unsigned, x | y)
EFT_HOST_REDUCE(__reduce_xor_sync, unsigned, x ^ y)
#undef EFT_HOST_REDUCE

#endif  // EFT_EMULATOR_CUDA_WARP_H_
