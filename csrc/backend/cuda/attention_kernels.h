// Attention over pages, with an online softmax (Milakov and Gimelshein, arXiv 1805.02867).
#pragma once

#include "backend/batch.h"
#include "backend/cuda/cuda_tensors.h"
#include "backend/cuda/warp.h"

namespace f1::cuda {

inline constexpr int kAttendWarps = 4;
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kHeadRegisters = kMaxHeadDim / kWarp;  // of a lane

struct Attend {
  const float* query;  // [T, H, E], scaled
  const F16 *key_pages, *value_pages;
  int64_t page_stride;
  const int32_t *positions, *page_begin, *page_ids;
  Bf16* out;  // [T, out_stride]
  int64_t out_stride;
  int num_heads, num_kv_heads, width;  // H, G, E
};

// query, and each warp's peak, total and sums.
inline size_t attend_shared(int width) {
  return sizeof(float) * static_cast<size_t>(width + kAttendWarps * (2 + width));
}

// What a warp has seen of the context.
struct Softmax {
  float peak = -INFINITY;
  float total = 0;                  // of exp(score - peak)
  float sums[kHeadRegisters] = {};  // of exp(score - peak) * value: i of lane + 32 i
};

// Takes in the first `count` slots of a page. Two lanes make a slot's score, half of E each; then
// each lane adds up its values.
__device__ inline void take_page(const float* query, const F16* keys, const F16* values, int width,
                                 int count, Softmax& softmax) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, slot = lane / 2;
  float score = 0;
  if (slot < count) {
    const int begin = lane % 2 * (width / 2);
    for (int i = begin; i < begin + width / 2; ++i)
      score += query[i] * to_float(keys[slot * width + i]);
  }
  score += __shfl_xor_sync(kAllLanes, score, 1);
  if (slot >= count) score = -INFINITY;
  const float peak = fmaxf(softmax.peak, warp_max(score));
  const float shrink = expf(softmax.peak - peak);  // 0 for the first page
  const float weight = expf(score - peak);
  softmax.peak = peak;
  softmax.total = softmax.total * shrink + warp_sum(lane % 2 == 0 ? weight : 0.0f);
  for (float& sum : softmax.sums) sum *= shrink;
  for (int s = 0; s < count; ++s) {
    const float slot_weight = __shfl_sync(kAllLanes, weight, 2 * s);
    for (int i = 0; i < kHeadRegisters; ++i) {
      const int at = i * kWarp + lane;
      if (at < width) softmax.sums[i] += slot_weight * to_float(values[s * width + at]);
    }
  }
}

// A block a token and head; its warps take pages in turn and are added in their order.
__global__ void attend_kernel(Attend a) {
  F1_SHARED(float, query);                     // [E]
  float* const peaks = query + a.width;        // [warp]
  float* const totals = peaks + kAttendWarps;  // [warp]
  float* const sums = totals + kAttendWarps;   // [warp][E]
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp, lane = thread % kWarp;
  for (int i = thread; i < a.width; i += kAttendWarps * kWarp)
    query[i] = a.query[(token * a.num_heads + head) * a.width + i];
  __syncthreads();

  const int64_t group = head / (a.num_heads / a.num_kv_heads);
  const int64_t in_page = group * kPageSize * a.width;
  const int32_t* page_ids = a.page_ids + a.page_begin[token];
  const int context = a.positions[token] + 1;
  Softmax softmax;
  for (int page = warp; page * kPageSize < context; page += kAttendWarps) {
    const int64_t at = page_ids[page] * a.page_stride + in_page;
    take_page(query, a.key_pages + at, a.value_pages + at, a.width,
              min(kPageSize, context - page * kPageSize), softmax);
  }

  if (lane == 0) {
    peaks[warp] = softmax.peak;
    totals[warp] = softmax.total;
  }
  for (int i = 0; i < kHeadRegisters; ++i) {
    const int at = i * kWarp + lane;
    if (at < a.width) sums[warp * a.width + at] = softmax.sums[i];
  }
  __syncthreads();
  float peak = peaks[0];  // warp 0 has seen a page
  for (int w = 1; w < kAttendWarps; ++w) peak = fmaxf(peak, peaks[w]);
  float total = 0;
  for (int w = 0; w < kAttendWarps; ++w) total += totals[w] * expf(peaks[w] - peak);
  for (int i = thread; i < a.width; i += kAttendWarps * kWarp) {
    float sum = 0;
    for (int w = 0; w < kAttendWarps; ++w) sum += sums[w * a.width + i] * expf(peaks[w] - peak);
    a.out[token * a.out_stride + head * a.width + i] = to_bf16(sum / total);
  }
}

}  // namespace f1::cuda
