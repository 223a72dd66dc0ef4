#include "backend/cpu/head_rows.h"

#include <cstring>

#include "backend/formats.h"

namespace f1::cpu {
namespace {

size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t num_blocks(size_t inputs) { return (inputs + kHeadBlock - 1) / kHeadBlock; }

size_t scale_bytes(HeadForm form, size_t inputs) {
  switch (form) {
    case HeadForm::k8Bit:
      return num_blocks(inputs) * 2 * sizeof(uint16_t);
    case HeadForm::k6Bit:
      return inputs / 16 + inputs / 256 * 2;
    default:
      return num_blocks(inputs) * 2 * 2 * sizeof(float);
  }
}

size_t code_bytes(HeadForm form, size_t inputs) {
  if (form == HeadForm::k6Bit) return inputs / 4 * 3;
  return num_blocks(inputs) * kHeadBlock;
}

// 256 codes of six bits to their planes.
void put_6_bits(const uint8_t* codes, uint8_t* out) {
  for (int i = 0; i < kHeadBlock; ++i) {
    const uint8_t c[4] = {codes[i], codes[64 + i], codes[128 + i], codes[192 + i]};
    out[i] = static_cast<uint8_t>((c[0] & 15) | (c[1] & 15) << 4);
    out[64 + i] = static_cast<uint8_t>((c[2] & 15) | (c[3] & 15) << 4);
    out[128 + i] =
        static_cast<uint8_t>(c[0] >> 4 | c[1] >> 4 << 2 | c[2] >> 4 << 4 | c[3] >> 4 << 6);
  }
}

template <typename Block>
void pack_row(const HeadMatrix& matrix, int64_t index, std::byte* out) {
  const auto* blocks = reinterpret_cast<const Block*>(matrix.tensor.row(index));
  const int64_t num_blocks = matrix.tensor.inputs / Block::kBlock;
  auto* head = reinterpret_cast<uint8_t*>(out);  // of the row: its scales
  auto* codes = head + matrix.scale_bytes;
  for (int64_t b = 0; b < num_blocks; ++b) {
    uint8_t unpacked[256];
    blocks[b].codes(unpacked);
    if constexpr (Block::kBits == 8) {
      std::memcpy(codes + b * Block::kBlock, unpacked, Block::kBlock);
      std::memcpy(head + b * 2, &blocks[b].d, 2);
    } else if constexpr (Block::kBits == 6) {
      put_6_bits(unpacked, codes + b * 192);
      std::memcpy(head + b * 16, blocks[b].small_scales, 16);
      std::memcpy(head + num_blocks * 16 + b * 2, &blocks[b].d, 2);
    } else {
      float scales[16], mins[8] = {};
      blocks[b].scales(scales, mins);
      std::memcpy(codes + b * Block::kBlock, unpacked, Block::kBlock);
      for (int64_t g = 0; g < Block::kBlock / 32; ++g) {
        const int64_t group = b * (Block::kBlock / 32) + g;
        std::memcpy(head + group * 4, &scales[2 * g], 4);
        std::memcpy(head + (matrix.num_blocks() * 2 + group) * 4, &mins[g], 4);
      }
    }
  }
}

}  // namespace

HeadMatrix head_layout(const Tensor& tensor) {
  HeadMatrix matrix{.form = HeadForm::kFloats,
                    .zero_point = 0,
                    .tensor = tensor,
                    .scale_bytes = 0,
                    .row_bytes = 0,
                    .data = nullptr};
  with_format(tensor.dtype, [&](auto format) {
    using Block = typename decltype(format)::Block;
    matrix.form = Block::kBits == 8   ? HeadForm::k8Bit
                  : Block::kBits == 6 ? HeadForm::k6Bit
                                      : HeadForm::kAnyBits;
    matrix.zero_point = Block::kZero;
    const auto inputs = static_cast<size_t>(tensor.inputs);
    matrix.scale_bytes = whole_lines(scale_bytes(matrix.form, inputs));
    matrix.row_bytes = matrix.scale_bytes + whole_lines(code_bytes(matrix.form, inputs));
  });
  return matrix;
}

void pack_head_row(const HeadMatrix& matrix, int64_t index, std::byte* out) {
  with_format(matrix.tensor.dtype,
              [&](auto format) { pack_row<typename decltype(format)::Block>(matrix, index, out); });
}

}  // namespace f1::cpu
