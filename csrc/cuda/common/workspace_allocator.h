// A workspace, cut into arrays.
#ifndef EFT_CUDA_COMMON_WORKSPACE_ALLOCATOR_H_
#define EFT_CUDA_COMMON_WORKSPACE_ALLOCATOR_H_

#include <stdint.h>

namespace eft {
namespace {

// Hands out 16-byte aligned places one after another.
class Places {
 public:
  explicit Places(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* next(int64_t count) {
    T* place = reinterpret_cast<T*>(base_ ? base_ + used_ : nullptr);
    used_ += (uint64_t(count) * sizeof(T) + 15) / 16 * 16;
    return place;
  }
  uint64_t used() const { return used_; }

 private:
  char* base_;
  uint64_t used_ = 0;
};

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_WORKSPACE_ALLOCATOR_H_
