// The decoding loop for Python: takes the addresses of a State once, then one call a step.
#include <pybind11/stl.h>

#include <array>

#include "eft_loop.h"
#include "python/bind.h"
#include "python/check.h"

namespace py = pybind11;

namespace eft {
namespace {

int64_t* at(uintptr_t address) { return reinterpret_cast<int64_t*>(address); }

// The advance of one State. The number of rows may change from call to call, addresses may not.
struct Advance {
  eft_advance advance{};
  bool cuda;

  Advance(bool cuda, const std::array<uintptr_t, 8>& addresses, int64_t ring_slots,
          int64_t ring_stride, int64_t num_eos, const std::vector<uintptr_t>& lengths)
      : cuda(cuda) {
    if (lengths.size() > EFT_MAX_MODELS) throw py::value_error("lengths: expected at most 4");
    advance.next_tokens = at(addresses[0]);
    advance.tokens = at(addresses[1]);
    advance.steps = at(addresses[2]);
    advance.max_new_tokens = at(addresses[3]);
    advance.active = at(addresses[4]);
    advance.ring = at(addresses[5]);
    advance.tick = at(addresses[6]);
    advance.eos_token_ids = at(addresses[7]);
    advance.ring_slots = ring_slots;
    advance.ring_stride = ring_stride;
    advance.num_eos = num_eos;
    for (size_t k = 0; k < lengths.size(); ++k) advance.lengths[k] = at(lengths[k]);
    advance.num_lengths = int32_t(lengths.size());
  }

  eft_advance of(int64_t rows, bool fed) const {
    eft_advance a = advance;
    a.num_rows = rows;
    if (!fed) a.num_lengths = 0;
    return a;
  }

  void run(int64_t rows, bool fed, uintptr_t stream) const {
    const eft_advance a = of(rows, fed);
    check(cuda ? eft_advance_cuda(&a, reinterpret_cast<void*>(stream)) : eft_advance_cpu(&a));
  }
};

// A loop on the device. Keep the graph of `body` for as long as this.
class WhileLoop {
 public:
  WhileLoop(const Advance& advance, int64_t rows, uintptr_t body) {
    const eft_advance a = advance.of(rows, true);
    check(eft_while_build(&a, reinterpret_cast<void*>(body), &loop_));
  }
  ~WhileLoop() { close(); }
  WhileLoop(const WhileLoop&) = delete;
  WhileLoop& operator=(const WhileLoop&) = delete;

  void launch(int64_t max_steps, uintptr_t stream) {
    check(eft_while_launch(open(), max_steps, reinterpret_cast<void*>(stream)));
  }
  bool poll() {
    const int state = eft_while_poll(open());
    if (state < 0) check(-state);
    return state != 0;
  }
  void close() {
    if (loop_) eft_while_close(loop_);
    loop_ = nullptr;
  }

 private:
  eft_while* open() const {
    if (!loop_) throw py::value_error("loop: expected an open one, got one that was closed");
    return loop_;
  }
  eft_while* loop_ = nullptr;
};

}  // namespace

void bind_loop(py::module_& m) {
  py::class_<Advance>(m, "Advance")
      .def(py::init<bool, std::array<uintptr_t, 8>, int64_t, int64_t, int64_t,
                    std::vector<uintptr_t>>())
      .def("run", &Advance::run);
  py::class_<WhileLoop>(m, "WhileLoop")
      .def(py::init<const Advance&, int64_t, uintptr_t>())
      .def("launch", &WhileLoop::launch)
      .def("poll", &WhileLoop::poll)
      .def("close", &WhileLoop::close);
  m.def("while_supported", [] { return eft_while_supported() != 0; });
}

}  // namespace eft
