// Fibers: stacks of one host thread that are switched by hand. A switch costs about a function
// call, so a block may have 1024 threads. AddressSanitizer is told of each switch.
#ifndef EFT_EMULATOR_FIBER_H_
#define EFT_EMULATOR_FIBER_H_

namespace simt {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Resets the fiber: the next `enter` calls `entry`, which must end with `leave(true)`.
  void prepare(void (*entry)());
  // Called by the scheduler: runs the fiber until it leaves.
  void enter();
  // Called in the fiber: returns to the scheduler; `last` if it will not be entered again.
  void leave(bool last);

 private:
  static void begin();

  char* mapping_ = nullptr;  // a guard page, then the stack
  void* sp_ = nullptr;       // the saved stack pointer
  void* fake_ = nullptr;     // AddressSanitizer's fake stack
  void (*entry_)() = nullptr;
};

}  // namespace simt
#endif  // EFT_EMULATOR_FIBER_H_
