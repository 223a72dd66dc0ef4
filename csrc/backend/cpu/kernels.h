// The kernels of one instruction set, as a table of functions. Their one source, *_kernels.h, is
// written over 16-wide lanes; kernels_scalar.cpp, kernels_avx2.cpp and kernels_avx512.cpp
// compile it.
#pragma once

#include <cstdint>

#include "backend/cpu/head_rows.h"
#include "backend/cpu/panels.h"
#include "core/tensor.h"

namespace f1::cpu {

inline constexpr int kTile = 4;        // tokens whose activations lie together
inline constexpr int kFewTokens = 32;  // up to this, panels are unpacked in registers
inline constexpr size_t kPanelScratch = size_t{40} << 10;  // bytes a thread needs in products

// Asks for the kBytes that lie kAhead further in a stream of weights. Measured on Zen 5: without,
// 20 to 37 GB/s a thread, by format; with, 40 for all, which is what the memory gives one thread.
inline constexpr size_t kAhead = 8192;
template <size_t kBytes>
inline void prefetch_ahead(const std::byte* data) {
  for (size_t i = 0; i < kBytes; i += 64) __builtin_prefetch(data + kAhead + i);
}

constexpr int64_t num_tiles(int64_t num_tokens) { return (num_tokens + kTile - 1) / kTile; }
// Panels that a thread takes at a time: they share the reading of activations.
constexpr int strip_panels(int64_t num_tokens) {
  return num_tokens <= kFewTokens ? kStripPanels : kStripPanels / 2;
}
// Floats from one panel's products to the next's.
constexpr int64_t panel_stride(int64_t num_tokens) {
  return num_tiles(num_tokens) * kTile * kPanelRows;
}

// 32 inputs of 4 tokens as s8 codes: value = scale * code, scale = max |value| / 127. What a
// product of panels reads together lies together.
struct TileGroup {
  int8_t codes[kTile][kGroup];
  float scales[kTile];
  float scaled_sums[kTile];      // scale * sum of codes, for weights with mins
  int32_t minus_sums[3][kTile];  // -sum of all, first 16, last 16 codes, for zero points
};
static_assert(sizeof(TileGroup) == 208);

// Rows of activations, as floats and, for quantised weights, as tiles of codes.
struct Rows {
  int64_t inputs = 0;
  float* values = nullptr;      // [T, inputs]
  TileGroup* groups = nullptr;  // [ceil(T / 4), inputs / 32]

  float* row(int64_t t) const { return values + t * inputs; }
  TileGroup* tile(int64_t i) const { return groups + i * (inputs / kGroup); }
};

// Consecutive tokens of one sequence, their query heads of one KV head, over the pages of one layer.
struct AttendTask {
  const float* query;    // [num_tokens, num_heads, head_dim], scaled
  float* out;            // [num_tokens, num_heads, head_dim]
  int64_t token_stride;  // floats from token to token, in query and out
  int num_tokens, num_heads, head_dim;
  const int32_t* page_ids;  // page of positions 0..15, of 16..31, ...
  int num_positions;        // how many the first token sees, its own included; the next one more
  const uint16_t* keys;     // f16 [head_dim, 16] of the KV head in page 0
  const uint16_t* values;   // f16 [16, head_dim] of the KV head in page 0
  int64_t page_stride;      // from page to page
};

inline constexpr int kSegment = 256;  // positions, whose sums are always taken by themselves
// Floats that hold one row's sums over a segment.
static inline int64_t partial_row(int64_t head_dim) { return 32 + (head_dim + 15) / 16 * 16; }

struct Kernels {
  const char* name;
  // out = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(const float* x, const float* weight, int64_t size, float eps, float* out);
  // Fills place `slot` of `count` groups of a tile from 32 * count values.
  void (*quantize)(const float* values, int64_t count, int slot, TileGroup* groups);
  // The same for groups first .. first + count - 1 of rows 0 .. num_tokens - 1.
  void (*quantize_rows)(const Rows& rows, int64_t num_tokens, int64_t first, int64_t count);
  // Rotates one head by the angles of its position; pairs are (i, i + half) or neighbours.
  void (*rotate)(const float* cosines, const float* sines, int half, bool interleaved, float* x);
  // One position's key and value of one KV head to its slot in a page: every 16th of keys, and
  // values side by side, f16.
  void (*write_slot)(const float* key, const float* value, int width, uint16_t* keys,
                     uint16_t* values);
  // out[p * panel_stride(T) + t * 16 + r] = row r of panel `panel` + p times row t, for p <
  // num_panels and t < T = num_tokens. Writes whole tiles of tokens.
  void (*panels_dot)(const PanelMatrix& matrix, int64_t panel, int num_panels, const Rows& rows,
                     int64_t num_tokens, std::byte* scratch, float* out);
  float (*dot)(const float* a, const float* b, int64_t size);
  // out[t * stride + r] = g / (1 + exp(-g)) * u, where g and u are gate and up [t * 16 + r], for t <
  // num_tokens and r < num_rows <= 16.
  void (*silu_mul)(const float* gate, const float* up, int64_t num_tokens, int num_rows, float* out,
                   int64_t stride);
  // Attention in three parts, with partial_row() floats for each token and head: the sums over one
  // segment; those of the next joined to them, one by one in order; the output from all.
  void (*attend_segment)(const AttendTask& task, int segment, float* partial);
  void (*join_segment)(const AttendTask& task, int segment, float* partial, float* next);
  void (*finish_attend)(const AttendTask& task, float* partial);
  // One row of a table as floats.
  void (*decode_row)(const Tensor& table, int64_t row, float* out);
  // out[i][row] = row `row` of the head times row i of the tiles x, for begin <= row < end and i <
  // num_tokens. `begin` is a multiple of 16; `products` has room for one panel's products.
  void (*head_dot)(const HeadMatrix& matrix, int64_t begin, int64_t end, const TileGroup* x,
                   int64_t num_tokens, float* products, float* const* out);
  // out[j] = row tokens[j] of the head times the first row of the tile x, for j < count.
  void (*head_dot_listed)(const HeadMatrix& matrix, const int32_t* tokens, int64_t count,
                          const TileGroup* x, float* out);
};

extern const Kernels kScalarKernels;
extern const Kernels* const kAvx2Kernels;  // null when not built for x86
extern const Kernels* const kAvx512Kernels;

}  // namespace f1::cpu
