#include "backend/cpu/pack.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/panels.h"
#include "backend/formats.h"

namespace f1::cpu {
namespace {

// `codes`: one row's 32 codes of a group. They join the other rows' in `out`.
void put_codes(Codes<8>& out, int row, const uint8_t* codes) {
  for (int quad = 0; quad < kQuads; ++quad)
    std::memcpy(&out.bytes[quad][row * 4], codes + quad * 4, 4);
}

void put_nibbles(uint8_t (&out)[4][64], int row, const uint8_t* codes) {
  for (int i = 0; i < 4; ++i) {
    uint32_t low, high;
    std::memcpy(&low, codes + 8 * i, 4);
    std::memcpy(&high, codes + 8 * i + 4, 4);
    const uint32_t joined = (low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4;
    std::memcpy(&out[i][row * 4], &joined, 4);
  }
}

void put_codes(Codes<4>& out, int row, const uint8_t* codes) {
  put_nibbles(out.nibbles, row, codes);
}

void put_codes(Codes<5>& out, int row, const uint8_t* codes) {
  put_nibbles(out.nibbles, row, codes);
  for (int quad = 0; quad < kQuads; ++quad) {
    uint32_t four;
    std::memcpy(&four, codes + quad * 4, 4);
    // The product moves bit 0 of each byte side by side into bits 24 to 27.
    const uint64_t bits = (four >> 4 & 0x01010101u) * 0x01020408u >> 24 & 15;
    out.bit4[quad] |= bits << (row * 4);
  }
}

void put_codes(Codes<6>& out, int row, const uint8_t* codes) {
  put_nibbles(out.nibbles, row, codes);
  for (int quad = 0; quad < kQuads; ++quad) {
    uint32_t four, plane;
    std::memcpy(&four, codes + quad * 4, 4);
    uint8_t* target = &out.bits45[quad / 4][row * 4];
    std::memcpy(&plane, target, 4);
    plane |= (four >> 4 & 0x03030303u) << (quad % 4 * 2);
    std::memcpy(target, &plane, 4);
  }
}

template <typename Block, int kBits, int kZero>
void put_scales(ScalePanel<kBits, kZero>& out, int row, const Block& block) {
  out.scale[row] = block.d;
}

template <typename Block, int kBits>
void put_scales(MinPanel<kBits>& out, int row, const Block& block) {
  out.scale[row] = block.d;
  out.min[row] = block.m;
}

template <typename Block, int kBits>
void put_scales(SuperPanel<kBits>& out, int row, const Block& block) {
  uint8_t scales[8], mins[8];
  unpack_k_scales(block.packed_scales, scales, mins);
  out.d[row] = block.d;
  out.dmin[row] = block.dmin;
  for (int g = 0; g < 8; ++g) {
    out.scales[g][row] = scales[g];
    out.mins[g][row] = mins[g];
  }
}

void put_scales(HalfGroupPanel& out, int row, const Q6_K& block) {
  out.d[row] = block.d;
  for (int i = 0; i < 16; ++i) out.scales[i][row] = block.small_scales[i];
}

template <typename Block>
void pack_quantized(const Tensor& tensor, const PanelMatrix& matrix, int64_t index,
                    std::byte* data) {
  using Panel = PanelOf<Block>;
  const int64_t first = index * kPanelRows;
  const int num_rows = static_cast<int>(std::min<int64_t>(kPanelRows, tensor.rows - first));
  uint8_t codes[256];
  for (int64_t k = 0; k < tensor.inputs; k += matrix.block_inputs) {
    auto* panels = reinterpret_cast<Panel*>(data + matrix.offset(index, k));
    const int64_t count = std::min(matrix.block_inputs, tensor.inputs - k) / Block::kBlock;
    for (int row = 0; row < num_rows; ++row) {
      const auto* blocks =
          reinterpret_cast<const Block*>(tensor.row(first + row)) + k / Block::kBlock;
      for (int64_t b = 0; b < count; ++b) {
        blocks[b].codes(codes);
        for (int g = 0; g < Panel::kGroups; ++g)
          put_codes(panels[b].codes[g], row, codes + g * kGroup);
        put_scales(panels[b], row, blocks[b]);
      }
    }
  }
}

void pack_floats(const Tensor& tensor, const PanelMatrix& matrix, int64_t index, std::byte* data) {
  const size_t width = row_bytes(tensor.dtype, 1);
  const int64_t first = index * kPanelRows;
  const int64_t num_rows = std::min<int64_t>(kPanelRows, tensor.rows - first);
  std::byte* out = data + matrix.offset(index, 0);
  for (int64_t row = 0; row < num_rows; ++row) {
    const std::byte* source = tensor.row(first + row);
    for (int64_t k = 0; k < tensor.inputs; ++k)
      std::memcpy(out + static_cast<size_t>(k * kPanelRows + row) * width,
                  source + static_cast<size_t>(k) * width, width);
  }
}

}  // namespace

PanelMatrix panel_layout(const Tensor& tensor) {
  PanelMatrix matrix{.dtype = tensor.dtype,
                     .rows = tensor.rows,
                     .inputs = tensor.inputs,
                     .unit_inputs = 1,
                     .unit_bytes = row_bytes(tensor.dtype, 1) * kPanelRows,
                     .block_inputs = tensor.inputs,
                     .data = nullptr};
  with_format(tensor.dtype, [&](auto format) {
    using Panel = PanelOf<typename decltype(format)::Block>;
    matrix.unit_inputs = kGroup * Panel::kGroups;
    matrix.unit_bytes = sizeof(Panel);
    matrix.block_inputs = kGroup * block_groups(Panel::kGroups);
  });
  return matrix;
}

void pack_panel(const Tensor& tensor, const PanelMatrix& matrix, int64_t index, std::byte* data) {
  if (is_float(tensor.dtype)) return pack_floats(tensor, matrix, index, data);
  with_format(tensor.dtype, [&](auto format) {
    pack_quantized<typename decltype(format)::Block>(tensor, matrix, index, data);
  });
}

}  // namespace f1::cpu
