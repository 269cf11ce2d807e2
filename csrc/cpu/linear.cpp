// The CPU's entry point of a linear layer: checks, packs the rows, shares the outputs among
// threads.
#include <algorithm>
#include <new>
#include <vector>

#include "common/error.h"
#include "cpu/float_mode.h"
#include "cpu/linear_isa.h"
#include "cpu/parallel.h"

namespace eft {
namespace {

const linear::Isa* kernels_of(int isa) {
  switch (isa == EFT_ISA_AUTO ? eft_cpu_best_isa() : isa) {
#ifdef EFT_X86
#ifdef EFT_AVX512
    case EFT_ISA_AVX512: return &linear::kAvx512;
#endif
    case EFT_ISA_AVX2: return &linear::kAvx2;
#endif
    case EFT_ISA_PORTABLE: return &linear::kPortable;
    default: return nullptr;
  }
}

// A thread's share: below it the work is over before another thread has woken up (about 10 us).
constexpr int64_t kMinBytes = 1 << 17;
constexpr int64_t kMinProducts = 1 << 19;

int check_linear(const eft_linear* l) {
  if (!l) return fail(EFT_BAD_ARGUMENT, "linear: null");
  if (l->dtype < EFT_BF16 || l->dtype > EFT_FP32) {
    return fail(EFT_BAD_ARGUMENT, "dtype: expected bf16, fp16 or fp32, got %d", l->dtype);
  }
  if (l->num_rows < 1 || l->in_features < 1 || l->out_features < 1) {
    return fail(EFT_BAD_ARGUMENT,
                "num_rows, in_features, out_features: expected at least 1, got %lld, %lld, %lld",
                (long long)l->num_rows, (long long)l->in_features, (long long)l->out_features);
  }
  if (!l->x || !l->weight || !l->y) {
    return fail(EFT_BAD_ARGUMENT, "x, weight, y: expected addresses, got null");
  }
  return EFT_OK;
}

}  // namespace
}  // namespace eft

extern "C" int eft_linear_cpu(const eft_linear* given, int isa, int max_threads) {
  using namespace eft;
  if (const int error = check_linear(given)) return error;
  const eft_linear& l = *given;
  const linear::Isa* chosen = isa <= eft_cpu_best_isa() ? kernels_of(isa) : nullptr;
  if (!chosen) {
    return fail(EFT_UNSUPPORTED, "isa: expected 0 to %d on this processor, got %d",
                eft_cpu_best_isa(), isa);
  }
  static thread_local std::vector<float> packed;
  const int most_rows = int(std::min<int64_t>(l.num_rows, linear::kMaxRows));
  const size_t size = size_t(linear::packed_size(l, most_rows)) + 16;  // to begin at a line
  if (packed.size() < size) {
    try {
      packed.resize(size);
    } catch (const std::bad_alloc&) {
      return fail(EFT_NO_MEMORY, "scratch: %llu bytes could not be allocated",
                  (unsigned long long)(size * sizeof(float)));
    }
  }
  const int64_t elements = l.in_features * l.out_features;
  const int64_t bytes = elements * (l.dtype == EFT_FP32 ? 4 : 2);
  // Of this thread, also where another one reads them.
  float* const rows =
      reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(packed.data()) + 63) / 64 * 64);
  for (int64_t row = 0; row < l.num_rows; row += linear::kMaxRows) {
    const int num_rows = int(std::min<int64_t>(linear::kMaxRows, l.num_rows - row));
    {
      const FloatMode mode;
      chosen->pack(l, row, num_rows, rows);
    }
    const int64_t blocks = (l.out_features + linear::kColumns - 1) / linear::kColumns;
    const int64_t wanted = std::max(bytes / kMinBytes, elements * num_rows / kMinProducts);
    const int64_t parts = std::max<int64_t>(1, std::min(wanted, blocks));
    for_each_part(parts, max_threads, [&](int64_t part) {
      const FloatMode mode;
      const int64_t first = blocks * part / parts * linear::kColumns;
      const int64_t last = blocks * (part + 1) / parts * linear::kColumns;
      chosen->multiply(l, row, num_rows, rows, first, std::min(last, l.out_features));
    });
  }
  return EFT_OK;
}
