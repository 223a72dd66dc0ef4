#include "backend/cpu/head_rows.h"

#include <cstring>
#include <vector>

#include "backend/formats.h"

namespace f1::cpu {
namespace {

size_t lines_of(size_t bytes) { return (bytes + kLine - 1) / kLine; }

// 256 codes of six bits to their planes.
void put_6_bits(const uint8_t* codes, uint8_t* out) {
  for (int i = 0; i < 64; ++i) {
    const uint8_t c[4] = {codes[i], codes[64 + i], codes[128 + i], codes[192 + i]};
    out[i] = static_cast<uint8_t>((c[0] & 15) | (c[1] & 15) << 4);
    out[64 + i] = static_cast<uint8_t>((c[2] & 15) | (c[3] & 15) << 4);
    out[128 + i] =
        static_cast<uint8_t>(c[0] >> 4 | c[1] >> 4 << 2 | c[2] >> 4 << 4 | c[3] >> 4 << 6);
  }
}

template <typename Block>
void pack_row(const HeadMatrix& matrix, int64_t index, uint8_t* row) {
  const auto* blocks = reinterpret_cast<const Block*>(matrix.tensor.row(index));
  uint8_t* scales = row;
  uint8_t* second = row + matrix.second_scales * kLine;
  uint8_t* codes = row + matrix.codes * kLine;
  for (int64_t b = 0; b < matrix.tensor.inputs / Block::kBlock; ++b) {
    uint8_t unpacked[256];
    blocks[b].codes(unpacked);
    if constexpr (Block::kBits == 8) {
      std::memcpy(codes + b * 32, unpacked, 32);
      std::memcpy(scales + b * 2, &blocks[b].d, 2);
    } else if constexpr (Block::kBits == 6) {
      put_6_bits(unpacked, codes + b * 192);
      std::memcpy(scales + b * 16, blocks[b].small_scales, 16);
      std::memcpy(second + b * 2, &blocks[b].d, 2);
    } else {
      float group_scales[16], mins[8] = {};
      blocks[b].scales(group_scales, mins);
      std::memcpy(codes + b * Block::kBlock, unpacked, Block::kBlock);
      for (int64_t g = 0; g < Block::kBlock / 32; ++g) {
        const int64_t group = b * (Block::kBlock / 32) + g;
        std::memcpy(scales + group * 4, &group_scales[2 * g], 4);
        std::memcpy(second + group * 4, &mins[g], 4);
      }
    }
  }
}

}  // namespace

HeadMatrix head_layout(const Tensor& tensor) {
  HeadMatrix matrix{HeadForm::kFloats, 0, tensor, 0, 0, 0, nullptr};
  with_format(tensor.dtype, [&](auto format) {
    using Block = typename decltype(format)::Block;
    const auto inputs = static_cast<size_t>(tensor.inputs);
    matrix.zero_point = Block::kZero;
    size_t code_bytes = inputs;
    if constexpr (Block::kBits == 8) {
      matrix.form = HeadForm::k8Bit;
      matrix.second_scales = matrix.codes = lines_of(inputs / 32 * 2);
    } else if constexpr (Block::kBits == 6) {
      matrix.form = HeadForm::k6Bit;
      matrix.second_scales = lines_of(inputs / 16);
      matrix.codes = matrix.second_scales + lines_of(inputs / 256 * 2);
      code_bytes = inputs / 4 * 3;
    } else {
      matrix.form = HeadForm::kAnyBits;
      matrix.second_scales = lines_of(inputs / 32 * 4);
      matrix.codes = 2 * matrix.second_scales;
    }
    matrix.num_lines = matrix.codes + lines_of(code_bytes);
  });
  return matrix;
}

void pack_head_row(const HeadMatrix& matrix, int64_t index, std::byte* data) {
  std::vector<uint8_t> row(matrix.num_lines * kLine);
  with_format(matrix.tensor.dtype, [&](auto format) {
    pack_row<typename decltype(format)::Block>(matrix, index, row.data());
  });
  std::byte* out = data + matrix.offset(index);
  for (size_t line = 0; line < matrix.num_lines; ++line)
    std::memcpy(out + line * kLineStride, row.data() + line * kLine, kLine);
}

}  // namespace f1::cpu
