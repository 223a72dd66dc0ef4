// Chooses the backend.
#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"

namespace f1 {

std::shared_ptr<Backend> make_backend(const BackendOptions& options) {
  return std::make_shared<CpuBackend>(options);
}

}  // namespace f1
