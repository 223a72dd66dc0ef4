// The kernels of one instruction set, as a table of functions. Their one source, *_kernels.h, is
// written over 16-wide lanes; kernels_scalar.cpp and kernels_avx512.cpp compile it.
#pragma once

#include <cstdint>

#include "backend/cpu/panels.h"
#include "core/tensor.h"

namespace f1::cpu {

inline constexpr int kTile = 8;     // tokens that share one reading of the weights
inline constexpr int kRowPad = 64;  // rows of s8 codes are zero-padded to this

static inline int64_t padded(int64_t inputs) { return (inputs + kRowPad - 1) / kRowPad * kRowPad; }

// Rows of activations, as floats and, for quantised weights, as s8 codes in groups of 32:
// value = scale * code, scale = max |value| / 127.
struct Rows {
  int64_t inputs = 0;
  float* values = nullptr;        // [T, inputs]
  int8_t* codes = nullptr;        // [T, padded]
  float* scales = nullptr;        // [T, padded / 32]
  float* scaled_sums = nullptr;   // [T, padded / 32]  scale * sum of codes, for weights with mins
  int32_t* minus_sums = nullptr;  // [T, padded / 16]  -sum of 16 codes, for weights' zero points

  float* row(int64_t t) const { return values + t * inputs; }
};

// One token's query heads that share a KV head, over its sequence's pages of one layer.
struct AttendTask {
  const float* query;  // [num_heads, head_dim], scaled
  float* out;          // [num_heads, head_dim]
  int num_heads;
  int head_dim;
  const int32_t* page_ids;  // page of positions 0..15, of 16..31, ...
  int num_positions;        // how many to attend to, the token's own included
  const uint16_t* keys;     // f16 [head_dim, 16] of the KV head in page 0
  const uint16_t* values;   // f16 [16, head_dim] of the KV head in page 0
  int64_t page_stride;      // from page to page
};

struct Kernels {
  const char* name;
  // out = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(const float* x, const float* weight, int64_t size, float eps, float* out);
  // Fills row t's codes, scales and sums from its values.
  void (*quantize)(const Rows& rows, int64_t t);
  // tile[i * 16 + r] = row r of the panel times row first + i, for i < count <= kTile.
  void (*panel_dot)(const PanelMatrix& matrix, int64_t panel, const Rows& rows, int64_t first,
                    int count, float* tile);
  // out = gate / (1 + exp(-gate)) * up
  void (*silu_mul)(const float* gate, const float* up, int64_t size, float* out);
  void (*attend)(const AttendTask& task);
  // One row of a table as floats.
  void (*decode_row)(const Tensor& table, int64_t row, float* out);
  // out[i] = row `row` of the table times row which[i], for i < count. `scratch` has
  // row_scratch(inputs) floats.
  void (*table_dot)(const Tensor& table, int64_t row, const Rows& rows, const int32_t* which,
                    int count, float* scratch, float* out);
};

static inline int64_t row_scratch(int64_t inputs) { return padded(inputs) + kRowPad; }

extern const Kernels kScalarKernels;
extern const Kernels* const kAvx512Kernels;  // null when not built for x86

}  // namespace f1::cpu
