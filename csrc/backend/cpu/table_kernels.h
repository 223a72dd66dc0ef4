// Rows of tables in the file's own form, read in place.
#pragma once

#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/lane_math.h"
#include "backend/formats.h"

namespace f1::cpu {

template <typename L>
struct TableKernels {
  using F32 = typename L::F32;
  using Math = LaneMath<L>;

  static void decode_floats(const Tensor& table, int64_t row, float* out) {
    const std::byte* source = table.row(row);
    if (table.dtype == DType::kF32) {
      std::memcpy(out, source, static_cast<size_t>(table.inputs) * sizeof(float));
      return;
    }
    const auto* halves = reinterpret_cast<const uint16_t*>(source);
    int64_t i = 0;
    for (; i + 16 <= table.inputs; i += 16)
      L::store(out + i,
               table.dtype == DType::kF16 ? L::load_f16(halves + i) : L::load_bf16(halves + i));
    for (; i < table.inputs; ++i)
      out[i] = table.dtype == DType::kF16 ? f16_to_float(halves[i]) : bf16_to_float(halves[i]);
  }

  template <typename Block>
  static void decode_quantized(const Tensor& table, int64_t row, float* out) {
    const auto* blocks = reinterpret_cast<const Block*>(table.row(row));
    uint8_t codes[256];
    float scales[16], mins[8] = {};
    for (int64_t b = 0; b < table.inputs / Block::kBlock; ++b, out += Block::kBlock) {
      blocks[b].codes(codes);
      blocks[b].scales(scales, mins);
      for (int i = 0; i < Block::kBlock; ++i)
        out[i] = scales[i / 16] * static_cast<float>(codes[i] - Block::kZero) + mins[i / 32];
    }
  }

  static void decode_row(const Tensor& table, int64_t row, float* out) {
    if (is_float(table.dtype)) return decode_floats(table, row, out);
    with_format(table.dtype, [&](auto format) {
      decode_quantized<typename decltype(format)::Block>(table, row, out);
    });
  }
};

}  // namespace f1::cpu
