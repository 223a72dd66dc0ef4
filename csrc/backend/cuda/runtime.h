// The one switch between a GPU and the host: with F1_CUDA_SHIM the same sources run on a processor.
#pragma once

#ifdef F1_CUDA_SHIM
#include "backend/cuda/shim/shim.h"
#else
#include "backend/cuda/nvcc.h"
#endif
