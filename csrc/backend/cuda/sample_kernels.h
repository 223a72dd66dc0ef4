// Greedy sampling under a mask.
#pragma once

#include "backend/cuda/cuda_tensors.h"
#include "backend/cuda/warp.h"

namespace f1::cuda {

inline constexpr int kArgmaxThreads = 256;

struct GreedyRow {
  const float* logits;
  const int32_t* mask;  // bit set = legal; null: all are
  int64_t num_logits;
};

struct Best {
  float logit;
  int index;
};

inline constexpr size_t kArgmaxShared = sizeof(Best) * kArgmaxThreads / kWarp;

// The larger, the lower index among equals; what is not a number never wins.
__device__ inline void take(Best& best, Best other) {
  if (other.logit > best.logit || (other.logit == best.logit && other.index < best.index))
    best = other;
}

// A block a row: the index of its first largest legal logit, or -1 where none is a finite number.
__global__ void argmax_kernel(const GreedyRow* rows, int32_t* indices) {
  F1_SHARED(Best, of_warps);
  const GreedyRow row = rows[blockIdx.x];
  const int thread = static_cast<int>(threadIdx.x);
  Best best{-INFINITY, INT32_MAX};
  for (int i = thread; i < row.num_logits; i += kArgmaxThreads) {
    const bool is_legal = row.mask == nullptr || (row.mask[i / 32] >> i % 32 & 1);
    if (is_legal) take(best, {row.logits[i], i});
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    take(best, {__shfl_xor_sync(kAllLanes, best.logit, distance),
                __shfl_xor_sync(kAllLanes, best.index, distance)});
  }
  if (thread % kWarp == 0) of_warps[thread / kWarp] = best;
  __syncthreads();
  if (thread != 0) return;
  for (int warp = 1; warp < kArgmaxThreads / kWarp; ++warp) take(best, of_warps[warp]);
  const bool is_finite = best.logit < INFINITY && best.logit > -INFINITY;
  indices[blockIdx.x] = is_finite ? best.index : -1;
}

}  // namespace f1::cuda
