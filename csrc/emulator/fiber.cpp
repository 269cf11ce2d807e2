#include "emulator/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "emulator/asan.h"

#if defined(__x86_64__)
// Pushes the callee-saved registers, stores the stack pointer in *from and continues at `to`.
extern "C" void eft_switch_stack(void** from, void* to);
asm(R"(
.text
.p2align 4
.globl eft_switch_stack
.hidden eft_switch_stack
.type eft_switch_stack,@function
eft_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size eft_switch_stack,.-eft_switch_stack
)");
#else
#include <ucontext.h>
static void eft_switch_stack(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}
#endif

namespace simt {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStack = EFT_ASAN ? 32 * kPage : 16 * kPage;

void* scheduler_sp;
Fiber* entered;
[[maybe_unused]] void* scheduler_fake;
[[maybe_unused]] const void* scheduler_bottom;
[[maybe_unused]] size_t scheduler_size;

}  // namespace

Fiber::~Fiber() {
  if (mapping_) munmap(mapping_, kPage + kStack);
}

void Fiber::prepare(void (*entry)()) {
  if (!mapping_) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* at = mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (at == MAP_FAILED || mprotect(at, kPage, PROT_NONE) != 0) {
      perror("fiber: no memory for a stack");
      abort();
    }
    mapping_ = static_cast<char*>(at);
  }
  entry_ = entry;
  fake_ = nullptr;
  char* stack = mapping_ + kPage;
  ASAN_UNPOISON_MEMORY_REGION(stack, kStack);  // an aborted fiber left it poisoned
#if defined(__x86_64__)
  // The stack as eft_switch_stack leaves it: a return address, six registers.
  auto* top = reinterpret_cast<uint64_t*>(stack + kStack);
  top[-1] = 0;
  top[-2] = reinterpret_cast<uint64_t>(&Fiber::begin);
  for (int i = 3; i <= 8; ++i) top[-i] = 0;
  sp_ = top - 8;
#else
  auto* context = reinterpret_cast<ucontext_t*>(stack);
  getcontext(context);
  context->uc_stack.ss_sp = stack + kPage;
  context->uc_stack.ss_size = kStack - kPage;
  context->uc_link = nullptr;
  makecontext(context, &Fiber::begin, 0);
  sp_ = context;
#endif
}

void Fiber::begin() {
#if EFT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
  entered->entry_();
  abort();  // the entry ends with leave(true)
}

void Fiber::enter() {
  entered = this;
#if EFT_ASAN
  __sanitizer_start_switch_fiber(&scheduler_fake, mapping_ + kPage, kStack);
#endif
  eft_switch_stack(&scheduler_sp, sp_);
#if EFT_ASAN
  __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
#endif
}

void Fiber::leave([[maybe_unused]] bool last) {
#if EFT_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_, scheduler_bottom, scheduler_size);
#endif
  eft_switch_stack(&sp_, scheduler_sp);
#if EFT_ASAN
  __sanitizer_finish_switch_fiber(fake_, &scheduler_bottom, &scheduler_size);
#endif
}

}  // namespace simt
