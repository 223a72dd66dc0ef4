// Chooses the backend.
#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cuda/cuda_backend.h"
#include "core/error.h"

namespace f1 {

std::shared_ptr<Backend> make_backend(const BackendOptions& options) {
  if (options.isa != "cuda") return std::make_shared<CpuBackend>(options);
#ifdef F1_CUDA
  return make_cuda_backend();
#else
  throw InvalidArgument("isa 'cuda': this build has no CUDA; build with -DF1_CUDA=ON");
#endif
}

}  // namespace f1
