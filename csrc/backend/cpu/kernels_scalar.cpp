// The kernels in plain C++.
#include "backend/cpu/kernels_of.h"
#include "backend/cpu/lanes_scalar.h"

namespace f1::cpu {

constinit const Kernels kScalarKernels = kernels_of<ScalarLanes>("scalar");

}  // namespace f1::cpu
