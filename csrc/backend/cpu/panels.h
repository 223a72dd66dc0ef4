// "panel16": a matrix repacked for the kernels. A panel holds 16 rows (outputs); along its inputs
// it is cut into groups of 32, a group into 8 quads of 4. One 64-byte vector is a quad of all 16
// rows,
//
//     byte  r * 4 + j   =   row r, input 4 * quad + j
//
// so a u8 x s8 dot-product instruction leaves row r's sum in lane r. Codes keep the file's width
// and scales the file's values. Rows beyond the matrix have scale 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/dtype.h"

namespace f1::cpu {

inline constexpr int kPanelRows = 16;
inline constexpr int kGroup = 32;  // inputs that share a scale
inline constexpr int kQuads = kGroup / 4;

// Codes of 16 rows x 32 inputs.
template <int kBits>
struct Codes;

template <>
struct Codes<4> {
  uint8_t nibbles[4][64];  // [i]: quad 2i in the low, quad 2i + 1 in the high nibbles
};
template <>
struct Codes<5> {
  uint8_t nibbles[4][64];
  uint64_t bit4[8];  // [quad], bit r * 4 + j
};
template <>
struct Codes<6> {
  uint8_t nibbles[4][64];
  uint8_t bits45[2][64];  // [i]: bits 2f, 2f + 1 belong to quad 4i + f
};
template <>
struct Codes<8> {
  uint8_t bytes[8][64];  // signed codes are biased by 128
};

// Q4_0, Q5_0, Q8_0: one f16 scale a row and group.
template <int kBits, int kZeroPoint>
struct ScalePanel {
  static constexpr int kGroups = 1, kZero = kZeroPoint;
  Codes<kBits> codes[1];
  uint16_t scale[16];
};
// Q4_1, Q5_1: a scale and a min.
template <int kBits>
struct MinPanel {
  static constexpr int kGroups = 1, kZero = 0;
  Codes<kBits> codes[1];
  uint16_t scale[16], min[16];
};
// Q4_K, Q5_K: 8 groups with small integer scales and mins under one f16 each.
template <int kBits>
struct SuperPanel {
  static constexpr int kGroups = 8, kZero = 0;
  uint16_t d[16], dmin[16];
  uint8_t scales[8][16], mins[8][16];
  Codes<kBits> codes[8];
};
// Q6_K: 16 half groups with signed integer scales.
struct HalfGroupPanel {
  static constexpr int kGroups = 8, kZero = 32;
  uint16_t d[16];
  int8_t scales[16][16];
  Codes<6> codes[8];
};
static_assert(sizeof(ScalePanel<4, 8>) == 16 * 18 && sizeof(ScalePanel<5, 16>) == 16 * 22);
static_assert(sizeof(ScalePanel<8, 128>) == 16 * 34 && sizeof(MinPanel<4>) == 16 * 20);
static_assert(sizeof(MinPanel<5>) == 16 * 24 && sizeof(HalfGroupPanel) == 16 * 210);
static_assert(sizeof(SuperPanel<4>) == 16 * (144 + 4));  // 6-bit scales take a byte

// The panel that a file's blocks (formats.h) become.
template <typename Block>
struct PanelFor {
  using Type = ScalePanel<Block::kBits, Block::kZero>;
};
template <typename Block>
  requires(Block::kHasMin)
struct PanelFor<Block> {
  using Type =
      std::conditional_t<Block::kBlock == 32, MinPanel<Block::kBits>, SuperPanel<Block::kBits>>;
};
template <typename Block>
  requires(Block::kBits == 6)
struct PanelFor<Block> {
  using Type = HalfGroupPanel;
};
template <typename Block>
using PanelOf = typename PanelFor<Block>::Type;

// Floats have no such struct: for each input the 16 rows' values follow, in the file's type.

// A matrix's panels lie in the order in which products of few tokens read them, one long stream:
//
//     strip 0 | strip 1 | ...          a strip: 4 panels (the last is filled up)
//     block 0 | block 1 | ...          a block: kBlockGroups groups of each of the 4 panels,
//     panel 0 | 1 | 2 | 3              whose activations fit the first-level cache
//
// Floats have one block.
inline constexpr int kStripPanels = 4;
constexpr int64_t block_groups(int groups_of_panel) { return groups_of_panel == 8 ? 24 : 28; }

// A packed matrix as kernels see it.
struct PanelMatrix {
  DType dtype;
  int64_t rows, inputs;
  int64_t unit_inputs;   // of one struct
  size_t unit_bytes;     // and its size
  int64_t block_inputs;  // of a whole block; the last may have fewer
  const std::byte* data;

  int64_t num_panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  size_t panel_bytes() const { return bytes_of(inputs); }
  size_t num_bytes() const {
    const int64_t strips = (num_panels() + kStripPanels - 1) / kStripPanels;
    return static_cast<size_t>(strips) * kStripPanels * panel_bytes();
  }
  // Where the panel's inputs from `first` on begin; `first` is the beginning of a block.
  size_t offset(int64_t panel, int64_t first) const {
    const int64_t strip = panel / kStripPanels, left = inputs - first;
    const size_t block = bytes_of(left < block_inputs ? left : block_inputs);
    return static_cast<size_t>(strip) * kStripPanels * panel_bytes() +
           kStripPanels * bytes_of(first) + static_cast<size_t>(panel % kStripPanels) * block;
  }
  const std::byte* block(int64_t panel, int64_t first) const { return data + offset(panel, first); }

 private:
  size_t bytes_of(int64_t n) const { return static_cast<size_t>(n / unit_inputs) * unit_bytes; }
};

}  // namespace f1::cpu
