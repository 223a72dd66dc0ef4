// The backend for NVIDIA GPUs, from compute capability 8.0. All that the rest of the core sees of it.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace f1 {

// On the first GPU that CUDA shows. Throws InvalidArgument naming the option `isa` where there is
// none that will do.
std::shared_ptr<Backend> make_cuda_backend();

}  // namespace f1
