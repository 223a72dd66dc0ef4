#include "backend/cuda/pack.h"

#include <cstring>

#include "backend/formats.h"
#include "core/half.h"

namespace f1::cuda {
namespace {

void decode_floats(const Tensor& tensor, int64_t row, float* out) {
  const std::byte* source = tensor.row(row);
  if (tensor.dtype == DType::kF32) {
    std::memcpy(out, source, static_cast<size_t>(tensor.inputs) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < tensor.inputs; ++i) {
    uint16_t bits;
    std::memcpy(&bits, source + 2 * i, 2);
    out[i] = tensor.dtype == DType::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
  }
}

}  // namespace

void decode_row(const Tensor& tensor, int64_t row, float* out) {
  if (is_float(tensor.dtype)) return decode_floats(tensor, row, out);
  with_format(tensor.dtype, [&](auto format) {
    using Block = typename decltype(format)::Block;
    const std::byte* source = tensor.row(row);
    uint8_t codes[256];
    float scales[16], mins[8] = {};
    for (int64_t begin = 0; begin < tensor.inputs; begin += Block::kBlock) {
      Block block;  // a copy: in the file blocks may stand at odd addresses
      std::memcpy(&block, source, sizeof block);
      source += sizeof block;
      block.codes(codes);
      block.scales(scales, mins);
      for (int i = 0; i < Block::kBlock; ++i)
        out[begin + i] =
            scales[i / 16] * static_cast<float>(codes[i] - Block::kZero) + mins[i / 32];
    }
  });
}

std::vector<Bf16> pack_rows(const Tensor& tensor, int64_t stride) {
  std::vector<Bf16> packed(static_cast<size_t>(tensor.rows * stride));
  std::vector<float> values(static_cast<size_t>(tensor.inputs));
  for (int64_t row = 0; row < tensor.rows; ++row) {
    decode_row(tensor, row, values.data());
    for (int64_t i = 0; i < tensor.inputs; ++i)
      packed[static_cast<size_t>(row * stride + i)] = to_bf16(values[static_cast<size_t>(i)]);
  }
  return packed;
}

}  // namespace f1::cuda
