// Products y = x W^T on tensor cores. There is one kernel for all numbers of tokens, so that a row's
// sums have one order.
#pragma once

#include "backend/cuda/cuda_tensors.h"
#include "backend/cuda/warp.h"

namespace f1::cuda {

inline constexpr int kProductWarps = 4;
inline constexpr int kTileOutputs = 16;
inline constexpr int kTileTokens = 8;
inline constexpr int kTiles = kProductWarps;  // of tokens in a block: each warp finishes one

template <int kMatrices>
struct Product {
  const Bf16* weights[kMatrices];  // [rows, stride] each
  const int32_t* weight_rows;      // [num_outputs] which rows; null: all of them
  const Bf16* x;                   // [rows, stride]
  const int32_t* x_rows;           // [num_tokens] which rows; null: all of them
  int64_t stride;                  // a multiple of kChunk, zeros at the end
  int num_outputs, num_tokens;
};

template <int kMatrices>
constexpr size_t kProductShared = sizeof(float) * 4 * kWarp * kProductWarps * kTiles * kMatrices;

// Eight bf16 of a row.
__device__ inline uint4 load_inputs(const Bf16* row) {
  return *reinterpret_cast<const uint4*>(row);
}

// A block makes 16 outputs of 32 tokens; warp w takes the chunks of 32 inputs w, w + 4, ... and the
// four sums are added in the order of warps. finish(token, output, sums of each matrix) ends it.
//
// The four lanes of a quad read 64 bytes side by side of each row. A sum does not care what its
// inputs are called: lane q's eight, 8q to 8q + 7, serve two mma_m16n8k16 as those which the first
// calls 2q, 2q + 1, 2q + 8, 2q + 9 (8q to 8q + 3) and the second likewise (8q + 4 to 8q + 7).
template <int kMatrices, typename Finish>
__global__ void product_kernel(Product<kMatrices> p, Finish finish) {
  F1_SHARED(float, partial);  // [warp][matrix][tile][lane][4]
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int group = lane / 4, quad = lane % 4;
  const int first_output = static_cast<int>(blockIdx.x) * kTileOutputs;
  const int first_token = static_cast<int>(blockIdx.y) * kTiles * kTileTokens;

  int64_t weight_at[2];  // rows group and group + 8; past the end the last one, for nobody
  for (int i = 0; i < 2; ++i) {
    const int output = min(first_output + group + 8 * i, p.num_outputs - 1);
    const int64_t row = p.weight_rows ? p.weight_rows[output] : output;
    weight_at[i] = row * p.stride + 8 * quad;
  }
  int64_t x_at[kTiles];  // column `group` of each tile; -1: past the end
  for (int tile = 0; tile < kTiles; ++tile) {
    const int token = first_token + tile * kTileTokens + group;
    x_at[tile] = -1;
    if (token < p.num_tokens)
      x_at[tile] = (p.x_rows ? p.x_rows[token] : token) * p.stride + 8 * quad;
  }

  float sums[kMatrices][kTiles][4] = {};
  for (int64_t k = warp * kChunk; k < p.stride; k += kProductWarps * kChunk) {
    uint4 w[kMatrices][2];
    for (int m = 0; m < kMatrices; ++m)
      for (int i = 0; i < 2; ++i) w[m][i] = load_inputs(p.weights[m] + weight_at[i] + k);
    for (int tile = 0; tile < kTiles; ++tile) {
      if (first_token + tile * kTileTokens >= p.num_tokens) continue;  // the whole warp does
      uint4 x = {0, 0, 0, 0};
      if (x_at[tile] >= 0) x = load_inputs(p.x + x_at[tile] + k);
      for (int m = 0; m < kMatrices; ++m) {
        mma_m16n8k16(sums[m][tile], {w[m][0].x, w[m][1].x, w[m][0].y, w[m][1].y}, {x.x, x.y});
        mma_m16n8k16(sums[m][tile], {w[m][0].z, w[m][1].z, w[m][0].w, w[m][1].w}, {x.z, x.w});
      }
    }
  }

  const auto partial_at = [&](int of_warp, int m, int tile) {
    return partial + (((of_warp * kMatrices + m) * kTiles + tile) * kWarp + lane) * 4;
  };
  for (int m = 0; m < kMatrices; ++m)
    for (int tile = 0; tile < kTiles; ++tile)
      for (int i = 0; i < 4; ++i) partial_at(warp, m, tile)[i] = sums[m][tile][i];
  __syncthreads();
  for (int i = 0; i < 4; ++i) {  // of the tile that is this warp's
    float total[kMatrices] = {};
    for (int m = 0; m < kMatrices; ++m)
      for (int other = 0; other < kProductWarps; ++other) total[m] += partial_at(other, m, warp)[i];
    const int output = first_output + group + i / 2 * 8;
    const int token = first_token + warp * kTileTokens + 2 * quad + i % 2;
    if (output < p.num_outputs && token < p.num_tokens) finish(token, output, total);
  }
}

// What becomes of a sum. `width`: outputs of a row.
struct Store {
  float* out;
  const float* bias;        // null: none
  const int32_t* out_rows;  // [num_tokens] which rows of `out`; null: all of them
  int64_t width;
  __device__ void operator()(int token, int output, const float (&sum)[1]) const {
    const int64_t row = out_rows ? out_rows[token] : token;
    out[row * width + output] = sum[0] + (bias ? bias[output] : 0.0f);
  }
};

struct Add {
  float* out;
  int64_t width;
  __device__ void operator()(int token, int output, const float (&sum)[1]) const {
    out[token * width + output] += sum[0];
  }
};

struct SiluMul {
  Bf16* out;
  int64_t stride;
  __device__ void operator()(int token, int output, const float (&sum)[2]) const {
    out[token * stride + output] = to_bf16(sum[0] / (1.0f + expf(-sum[0])) * sum[1]);
  }
};

}  // namespace f1::cuda
