// A step that Python prepares once and runs many times.
#ifndef EFT_PYTHON_PREPARED_H_
#define EFT_PYTHON_PREPARED_H_

#include "python/convert.h"

namespace eft {

// A step whose addresses may be replaced, so that the rest is converted once for all tokens of a
// loop.
struct Prepared {
  eft_step step;

  void run(int isa, Address tokens) const;
  // The next token of a loop: other logits, another seed and position (both for all rows).
  void run_next(int isa, Address tokens, int64_t seed, int64_t position,
                const pybind11::args& logits) const;
  // Other logits, with the seeds and positions that it was prepared with.
  void run_logits(int isa, Address tokens, const pybind11::args& logits) const;

  void run_cuda(Address stream, Address tokens, Address workspace, uint64_t bytes) const;
  void run_next_cuda(Address stream, Address tokens, Address workspace, uint64_t bytes,
                     int64_t seed, int64_t position, const pybind11::args& logits) const;
  uint64_t workspace_bytes() const { return eft_cuda_workspace_bytes(&step); }

 private:
  eft_step with(Address tokens) const;
  eft_step with(Address tokens, const pybind11::args& logits) const;
  eft_step next(Address tokens, int64_t seed, int64_t position, const pybind11::args& logits) const;
};

}  // namespace eft
#endif  // EFT_PYTHON_PREPARED_H_
