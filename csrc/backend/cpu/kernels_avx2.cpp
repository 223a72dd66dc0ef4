// The kernels in AVX2 with FMA and F16C. On x86 CMake compiles this file for it; nothing here may
// run before the processor was asked (cpu_backend.cpp), so all is constant data.
#include "backend/cpu/kernels.h"

#ifdef __AVX2__

#include "backend/cpu/kernels_of.h"
#include "backend/cpu/lanes_avx2.h"

namespace f1::cpu {
namespace {
constexpr Kernels kKernels = kernels_of<Avx2Lanes>("avx2");
}
constinit const Kernels* const kAvx2Kernels = &kKernels;

}  // namespace f1::cpu

#else

namespace f1::cpu {
constinit const Kernels* const kAvx2Kernels = nullptr;
}

#endif
