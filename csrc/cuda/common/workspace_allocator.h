// Cuts a workspace into arrays; with a null base it only counts the bytes.
#ifndef EFT_CUDA_COMMON_WORKSPACE_ALLOCATOR_H_
#define EFT_CUDA_COMMON_WORKSPACE_ALLOCATOR_H_

#include <stdint.h>

namespace eft {
namespace {

// Arrays one after another, each aligned to 16 bytes.
class WorkspaceAllocator {
 public:
  explicit WorkspaceAllocator(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* allocate(int64_t count) {
    T* array = reinterpret_cast<T*>(base_ ? base_ + used_ : nullptr);
    used_ += (uint64_t(count) * sizeof(T) + 15) / 16 * 16;
    return array;
  }
  uint64_t used() const { return used_; }

 private:
  char* base_;
  uint64_t used_ = 0;
};

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_WORKSPACE_ALLOCATOR_H_
