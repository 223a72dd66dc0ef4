// What kernels need beyond CUDA's own names, on a real device. shim/shim.h has the same for a host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/numbers.h"

// Launches go through a macro, with no comma in `kernel` but inside parentheses.
#define F1_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)       \
  do {                                                                  \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__); \
    CUDA_CHECK(cudaGetLastError());                                     \
  } while (false)

// A block's shared memory, all of it: `type* name`.
#define F1_SHARED(type, name)                                       \
  extern __shared__ __align__(16) unsigned char f1_shared_memory[]; \
  type* const name = reinterpret_cast<type*>(f1_shared_memory)

#ifdef __CUDACC__
#include <cuda_fp16.h>

namespace f1::cuda {

__device__ inline float to_float(F16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline F16 to_f16(float x) { return {__half_as_ushort(__float2half_rn(x))}; }

// sums += a b on a warp's tensor core: a [16, 16] bf16, b [16, 8] bf16, sums [16, 8] f32. With
// g = lane / 4 and q = lane % 4 a lane holds (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//
//   a[0]  row g      inputs 2q, 2q + 1      b[0]  inputs 2q, 2q + 1    column g
//   a[1]  row g + 8  inputs 2q, 2q + 1      b[1]  inputs 2q + 8, + 9   column g
//   a[2]  row g      inputs 2q + 8, + 9     sums[0], sums[1]  row g      columns 2q, 2q + 1
//   a[3]  row g + 8  inputs 2q + 8, + 9     sums[2], sums[3]  row g + 8  columns 2q, 2q + 1
//
// of each pair the first in the lower half of the register.
__device__ inline void mma_m16n8k16(float (&sums)[4], const uint32_t (&a)[4],
                                    const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace f1::cuda
#endif
