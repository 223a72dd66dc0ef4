// The kernels in AVX-512 with VNNI. On x86 CMake compiles this file for it; nothing here may run
// before the processor was asked (cpu_backend.cpp), so all is constant data.
#include "backend/cpu/kernels.h"

#ifdef __AVX512VNNI__

#include "backend/cpu/kernels_of.h"
#include "backend/cpu/lanes_avx512.h"

namespace f1::cpu {
namespace {
constexpr Kernels kKernels = kernels_of<Avx512Lanes>("avx512");
}
constinit const Kernels* const kAvx512Kernels = &kKernels;

}  // namespace f1::cpu

#else

namespace f1::cpu {
constinit const Kernels* const kAvx512Kernels = nullptr;
}

#endif
