#include "backend/cpu/head_rows.h"

#include <cstring>
#include <vector>

#include "backend/formats.h"

namespace f1::cpu {
namespace {

// 256 codes of six bits to their planes.
void put_6_bits(const uint8_t* codes, uint8_t* out) {
  for (int i = 0; i < 64; ++i) {
    const uint8_t c[4] = {codes[i], codes[64 + i], codes[128 + i], codes[192 + i]};
    out[64 + i] = static_cast<uint8_t>((c[0] & 15) | (c[1] & 15) << 4);
    out[128 + i] = static_cast<uint8_t>((c[2] & 15) | (c[3] & 15) << 4);
    out[i] = static_cast<uint8_t>(c[0] >> 4 | c[1] >> 4 << 2 | c[2] >> 4 << 4 | c[3] >> 4 << 6);
  }
}

template <typename Block>
void pack_row(const HeadMatrix& matrix, int64_t index, uint8_t* row) {
  const auto* blocks = reinterpret_cast<const Block*>(matrix.tensor.row(index));
  const auto at = [row](int64_t line, int64_t byte) { return row + line * kLine + byte; };
  for (int64_t b = 0; b < matrix.tensor.inputs / Block::kBlock; ++b) {
    uint8_t unpacked[256];
    blocks[b].codes(unpacked);
    if constexpr (Block::kBits == 8) {
      const int64_t first = b / 32 * kLines8Bit, g = b % 32;
      std::memcpy(at(first, g * 2), &blocks[b].d, 2);
      std::memcpy(at(first + 1, g * 32), unpacked, 32);
    } else if constexpr (Block::kBits == 6) {
      const int64_t first = b / 4 * kLines6Bit, super = b % 4;
      std::memcpy(at(first, super * 16), blocks[b].small_scales, 16);
      std::memcpy(at(first + 1, super * 2), &blocks[b].d, 2);
      put_6_bits(unpacked, at(first + 2 + 3 * super, 0));
    } else {
      float scales[16], mins[8] = {};
      blocks[b].scales(scales, mins);
      for (int64_t i = 0; i < Block::kBlock / 32; ++i) {
        const int64_t group = b * (Block::kBlock / 32) + i;
        const int64_t first = group / 16 * kLinesAnyBits, g = group % 16;
        std::memcpy(at(first, g * 4), &scales[2 * i], 4);
        std::memcpy(at(first + 1, g * 4), &mins[i], 4);
        std::memcpy(at(first + 2, g * 32), unpacked + i * 32, 32);
      }
    }
  }
}

}  // namespace

HeadMatrix head_layout(const Tensor& tensor) {
  HeadMatrix matrix{HeadForm::kFloats, 0, tensor, 0, nullptr};
  // Whole stretches of inputs, and of the last what it needs: `fixed` lines and its codes'.
  const auto lines = [&](int64_t stretch, int64_t all, int64_t fixed, auto code_lines) {
    const int64_t rest = tensor.inputs % stretch;
    return static_cast<size_t>(tensor.inputs / stretch * all +
                               (rest == 0 ? 0 : fixed + code_lines(rest)));
  };
  const auto of_bytes = [](int64_t inputs) { return (inputs + kLine - 1) / kLine; };
  with_format(tensor.dtype, [&](auto format) {
    using Block = typename decltype(format)::Block;
    matrix.zero_point = Block::kZero;
    if constexpr (Block::kBits == 8) {
      matrix.form = HeadForm::k8Bit;
      matrix.num_lines = lines(1024, kLines8Bit, 1, of_bytes);
    } else if constexpr (Block::kBits == 6) {
      matrix.form = HeadForm::k6Bit;
      matrix.num_lines = lines(1024, kLines6Bit, 2, [](int64_t rest) { return rest / 256 * 3; });
    } else {
      matrix.form = HeadForm::kAnyBits;
      matrix.num_lines = lines(512, kLinesAnyBits, 2, of_bytes);
    }
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
