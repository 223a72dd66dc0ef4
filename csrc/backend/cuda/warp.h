// Sums within a warp and a block, in one order whatever the threads' own.
#pragma once

#include <cmath>

#include "backend/cuda/runtime.h"

namespace f1::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// The same bits in every lane: at each distance both of a pair add the same two numbers.
__device__ inline float warp_sum(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

__device__ inline float warp_max(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// `sums`: shared, one float a warp; not to be written again before the block's next barrier.
__device__ inline float block_sum(float value, float* sums) {
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) total += sums[warp];
  return total;
}

}  // namespace f1::cuda
