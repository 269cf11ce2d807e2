// The Python module of libeft: addresses become calls, error codes become exceptions. No tensor
// types.
#include <dlfcn.h>

#include <string>

#include "eft.h"
#include "python/bind.h"

namespace eft {
namespace {

std::string file_of(const void* address) {
  Dl_info info = {};
  return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "a file without a name";
}

// Before the first call: another libeft would read the structs in another way.
void check_library() {
  const int32_t found = eft_abi_version();
  if (found == EFT_ABI_VERSION) return;
  throw pybind11::import_error(file_of(reinterpret_cast<const void*>(&check_library)) +
                               " needs version " + std::to_string(EFT_ABI_VERSION) +
                               " of the C interface, and " +
                               file_of(reinterpret_cast<const void*>(&eft_abi_version)) +
                               " has version " + std::to_string(found));
}

}  // namespace
}  // namespace eft

PYBIND11_MODULE(_native, m) {
  eft::check_library();
  eft::bind_step(m);
  eft::bind_verify(m);
  eft::bind_score(m);
  eft::bind_attention(m);
  eft::bind_loop(m);
  eft::bind_linear(m);
  m.def("version", &eft_version);
  m.def("abi_version", &eft_abi_version);
  m.def("cpu_best_isa", &eft_cpu_best_isa);
  m.def("cuda_built", [] { return eft_cuda_built() != 0; });
  m.def("cuda_architectures", &eft_cuda_architectures);
}
