// What is done to one token by itself: embedding, norms, rotation, writing K and V.
#pragma once

#include "backend/batch.h"
#include "backend/cuda/cuda_tensors.h"
#include "backend/cuda/warp.h"

namespace f1::cuda {

inline constexpr int kRowThreads = 256;
inline constexpr size_t kRowShared = sizeof(float) * kRowThreads / kWarp;

struct Rotation {
  const float* inv_freq;  // [half]
  float* cosines;         // [T, half]
  float* sines;
  int half;  // E / 2
};

// A block a token: its row of the table, and its angles.
__global__ void embed_kernel(const Bf16* table, int64_t stride, const int32_t* token_ids,
                             const int32_t* positions, int width, float* hidden,
                             Rotation rotation) {
  const int64_t token = blockIdx.x;
  const Bf16* row = table + token_ids[token] * stride;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kRowThreads)
    hidden[token * width + i] = to_float(row[i]);
  for (int i = static_cast<int>(threadIdx.x); i < rotation.half; i += kRowThreads) {
    const float angle = static_cast<float>(positions[token]) * rotation.inv_freq[i];
    rotation.cosines[token * rotation.half + i] = cosf(angle);
    rotation.sines[token * rotation.half + i] = sinf(angle);
  }
}

// A block a mix: of rows of the table, in place of what embed_kernel put there. `mixes` as
// CudaActivations::upload_mixes() has them.
__global__ void mix_kernel(const Bf16* table, int64_t stride, const int32_t* mixes, int num_mixes,
                           const float* weights, int width, float* hidden) {
  const int32_t* const bounds = mixes + num_mixes + blockIdx.x;
  const int32_t* const ids = mixes + 2 * num_mixes + 1;
  float* const out = hidden + static_cast<int64_t>(mixes[blockIdx.x]) * width;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kRowThreads) {
    float sum = weights[bounds[0]] * to_float(table[ids[bounds[0]] * stride + i]);
    for (int32_t k = bounds[0] + 1; k < bounds[1]; ++k)
      sum += weights[k] * to_float(table[ids[k] * stride + i]);
    out[i] = sum;
  }
}

// A block a row: out = hidden / rms(hidden) * weight. `rows`: which of hidden; null: all.
__global__ void rms_norm_kernel(const float* hidden, const int32_t* rows, const float* weight,
                                float eps, int width, Bf16* out, int64_t out_stride) {
  F1_SHARED(float, sums);
  const int64_t row = rows ? rows[blockIdx.x] : static_cast<int64_t>(blockIdx.x);
  const float* x = hidden + row * width;
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kRowThreads) sum += x[i] * x[i];
  const float total = block_sum(sum, sums);
  const float scale = 1.0f / sqrtf(total / static_cast<float>(width) + eps);
  Bf16* target = out + blockIdx.x * out_stride;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kRowThreads)
    target[i] = to_bf16(x[i] * scale * weight[i]);
}

struct NewHeads {
  float* query;       // [T, H, E], finished in place
  const float* keys;  // [T, G, E]
  const float* values;
  const float *query_norm, *key_norm;  // [E]; null: none
  const int32_t *positions, *page_begin, *page_ids;
  F16 *key_pages, *value_pages;  // of the layer, in page 0
  int64_t page_stride;
  Rotation rotation;
  int num_heads, num_kv_heads;
  float eps, query_scale;
  bool interleaved;
};

// Norms (where the model does) and rotates one head x and gives its pairs to write(index, value).
// A lane touches none but its own pairs, so `x` may be what is written.
template <typename Write>
__device__ void finish_head(const NewHeads& n, const float* x, const float* norm, int64_t token,
                            const Write& write) {
  const int half = n.rotation.half, lane = static_cast<int>(threadIdx.x);
  const int step = n.interleaved ? 2 : 1, apart = n.interleaved ? 1 : half;
  float scale = 1;
  if (norm) {
    float sum = 0;
    for (int i = lane; i < half; i += kWarp) {
      const float a = x[i * step], b = x[i * step + apart];
      sum += a * a + b * b;
    }
    scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(2 * half) + n.eps);
  }
  for (int i = lane; i < half; i += kWarp) {
    const int first = i * step, second = first + apart;
    const float a = x[first] * (norm ? scale * norm[first] : 1.0f);
    const float b = x[second] * (norm ? scale * norm[second] : 1.0f);
    const float cosine = n.rotation.cosines[token * half + i];
    const float sine = n.rotation.sines[token * half + i];
    write(first, a * cosine - b * sine);
    write(second, a * sine + b * cosine);
  }
}

// A warp a head, blockIdx.y over the H of the query, the G of K, the G of V.
__global__ void finish_heads_kernel(NewHeads n) {
  const int64_t token = blockIdx.x;
  const int width = 2 * n.rotation.half;
  int head = static_cast<int>(blockIdx.y);
  if (head < n.num_heads) {
    float* query = n.query + (token * n.num_heads + head) * width;
    finish_head(n, query, n.query_norm, token,
                [&](int i, float value) { query[i] = value * n.query_scale; });
    return;
  }
  head -= n.num_heads;
  const bool is_key = head < n.num_kv_heads;
  if (!is_key) head -= n.num_kv_heads;
  const int position = n.positions[token];
  const int64_t page = n.page_ids[n.page_begin[token] + position / kPageSize];
  F16* out = (is_key ? n.key_pages : n.value_pages) + page * n.page_stride +
             (int64_t{head} * kPageSize + position % kPageSize) * width;
  const float* x = (is_key ? n.keys : n.values) + (token * n.num_kv_heads + head) * width;
  if (is_key) {
    finish_head(n, x, n.key_norm, token, [&](int i, float value) { out[i] = to_f16(value); });
    return;
  }
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kWarp) out[i] = to_f16(x[i]);
}

}  // namespace f1::cuda
