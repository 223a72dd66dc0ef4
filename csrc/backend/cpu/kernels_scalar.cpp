// The kernels in plain C++.
#include "backend/cpu/kernels_impl.h"
#include "backend/cpu/lanes_scalar.h"

namespace f1::cpu {

constinit const Kernels kScalarKernels = KernelsOf<ScalarLanes>::table("scalar");

}  // namespace f1::cpu
