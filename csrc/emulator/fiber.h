// Threads of a GPU as fibers of one host thread: stacks that are switched by hand, so that a block
// of 1024 threads costs no more than a function call a switch. AddressSanitizer is told of each.
#ifndef EFT_EMULATOR_FIBER_H_
#define EFT_EMULATOR_FIBER_H_

namespace cuda_host {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // A fresh start: the next `enter` calls `entry`, which must end with `leave(true)`.
  void prepare(void (*entry)());
  // From the scheduler: runs the fiber until it leaves.
  void enter();
  // From the fiber: back to the scheduler; `last` when it will not be entered again.
  void leave(bool last);

 private:
  static void begin();

  char* mapping_ = nullptr;  // a page that may not be touched, then the stack
  void* sp_ = nullptr;       // where the fiber stands
  void* fake_ = nullptr;     // AddressSanitizer's own state of it
  void (*entry_)() = nullptr;
};

}  // namespace cuda_host
#endif  // EFT_EMULATOR_FIBER_H_
