// CUDA's names on a processor, for tests: the kernels' own sources, compiled by g++.
//
//   a thread      a fiber (fibers.h); __syncthreads() and what a warp does together are meeting points
//   a block       its fibers in one of three orders, blocks one after another
//   a stream      a list of work that is done when somebody waits, as late as a device might
//   device memory of its own: with AddressSanitizer the host cannot touch it
//
// What it cannot show: the memory model between blocks, bank conflicts, registers, tensor cores'
// rounding, speed. Only what our kernels use is here: one-dimensional blocks of whole warps, and full
// masks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include "backend/cuda/numbers.h"
#include "backend/cuda/shim/fibers.h"
#include "core/half.h"

#define __global__
#define __device__
#define __host__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct uint4 {
  alignas(16) uint32_t x;
  uint32_t y, z, w;
};
using std::min;

// Of the fiber that runs.
#define threadIdx (::f1::shim::thread_index())
#define blockIdx (::f1::shim::block_index())
#define blockDim (::f1::shim::block_size())

// ---- the runtime -------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorLaunchFailure };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
inline constexpr unsigned cudaStreamNonBlocking = 1;
using cudaStream_t = struct ShimStream*;
struct cudaDeviceProp {
  char name[256];
  int major, minor;
};

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t status);  // of a kernel that failed: what went wrong

namespace f1::shim {

// Adds a kernel to the stream's work.
cudaError_t launch(const char* name, dim3 grid, unsigned block, size_t shared_bytes,
                   cudaStream_t stream, std::function<void()> thread);

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const char* name, void (*kernel)(Parameters...), dim3 grid, unsigned block,
                   size_t shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
  const std::function<void(Parameters...)> call = kernel;
  return launch(name, grid, block, shared_bytes, stream, std::bind(call, arguments...));
}

}  // namespace f1::shim

#define F1_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  CUDA_CHECK(                                                     \
      ::f1::shim::launch(#kernel, kernel, (grid), (block), (shared_bytes), (stream), __VA_ARGS__))

#define F1_SHARED(type, name) type* const name = static_cast<type*>(::f1::shim::shared_memory())

// ---- what threads do together --------------------------------------------------------------------

// `line` tells apart the places in a kernel: all must meet at the same one.
inline void __syncthreads(int line = __builtin_LINE()) { f1::shim::meet_block(line); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int line = __builtin_LINE()) {
  T all[32];
  f1::shim::meet_warp(mask, &value, sizeof value, all, line);
  return all[lane % 32];
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance, int line = __builtin_LINE()) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x) % 32 ^ distance, line);
}

namespace f1::cuda {

inline float to_float(F16 x) { return f16_to_float(x.bits); }
inline F16 to_f16(float x) { return {float_to_f16(x)}; }

// As in nvcc.h, from the fragments that the 32 lanes hold.
inline void mma_m16n8k16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         int line = __builtin_LINE()) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  Fragments own, all[32];
  std::memcpy(own.a, a, sizeof a);
  std::memcpy(own.b, b, sizeof b);
  shim::meet_warp(0xffffffffu, &own, sizeof own, all, line);
  const auto half = [](uint32_t pair, int which) {
    return to_float(Bf16{static_cast<uint16_t>(pair >> 16 * which)});
  };
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {  // who holds input k of the row and of the column, and where
      const Fragments& of_row = all[row % 8 * 4 + k % 8 / 2];
      const Fragments& of_column = all[column * 4 + k % 8 / 2];
      sums[i] += half(of_row.a[k / 8 * 2 + row / 8], k % 2) * half(of_column.b[k / 8], k % 2);
    }
  }
}

}  // namespace f1::cuda
