// Rows of embedding and head, read in place in the file's own form.
#pragma once

#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/lane_math.h"
#include "backend/formats.h"

namespace f1::cpu {

template <typename L>
struct TableKernels {
  using F32 = typename L::F32;
  using I32 = typename L::I32;
  using U8 = typename L::U8;
  using Math = LaneMath<L>;

  static void decode_floats(const Tensor& table, int64_t row, float* out) {
    const std::byte* source = table.row(row);
    for (int64_t i = 0; i < table.inputs; ++i) {
      uint16_t half = 0;
      if (table.dtype == DType::kF32) {
        std::memcpy(out + i, source + 4 * i, 4);
        continue;
      }
      std::memcpy(&half, source + 2 * i, 2);
      out[i] = table.dtype == DType::kF16 ? f16_to_float(half) : bf16_to_float(half);
    }
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

  // The row is decoded once, into `scratch`, for all `count` products.
  template <typename Block>
  static void quantized_table_dot(const Tensor& table, int64_t row, const Rows& rows,
                                  const int32_t* which, int count, float* scratch, float* out) {
    const int64_t width = padded(table.inputs);
    float* w_scales = scratch;
    float* w_mins = w_scales + width / 16;
    auto* w_codes = reinterpret_cast<uint8_t*>(w_mins + width / 32);
    L::store(w_scales + width / 16 - 4, L::set(0.0f), 4);  // of the padding, where there is any
    L::store(w_mins + width / 32 - 2, L::set(0.0f), 2);
    const auto* blocks = reinterpret_cast<const Block*>(table.row(row));
    for (int64_t b = 0; b < table.inputs / Block::kBlock; ++b) {
      blocks[b].codes(w_codes + b * Block::kBlock);
      blocks[b].scales(w_scales + b * (Block::kBlock / 16), w_mins + b * (Block::kBlock / 32));
    }
    for (int i = 0; i < count; ++i) {
      const int64_t t = which[i];
      const int8_t* codes = rows.codes + t * width;
      const float* scales = rows.scales + t * width / kGroup;
      F32 sum = L::set(0.0f);
      for (int64_t k = 0; k < width; k += 64) {
        const U8 x = L::load_bytes(codes + k);
        I32 dot = L::set(int32_t{0});
        if constexpr (Block::kZero != 0)
          dot = L::times_zero_point(L::negate(L::dot(dot, L::set_bytes(1), x)), Block::kZero);
        dot = L::dot(dot, L::load_bytes(w_codes + k), x);
        const F32 scale = L::mul(L::spread4(w_scales + k / 16), L::spread2(scales + k / kGroup));
        sum = L::fma(L::to_f32(dot), scale, sum);
      }
      if constexpr (Block::kHasMin) {
        const float* sums = rows.scaled_sums + t * width / kGroup;
        for (int64_t g = 0; g < width / kGroup; g += 16) {
          const int n = Math::lanes_left(width / kGroup - g);
          sum = L::fma(L::load(w_mins + g, n), L::load(sums + g, n), sum);
        }
      }
      out[i] = L::sum(sum);
    }
  }

  static void float_table_dot(const Tensor& table, int64_t row, const Rows& rows,
                              const int32_t* which, int count, float* scratch, float* out) {
    decode_floats(table, row, scratch);
    for (int i = 0; i < count; ++i) {
      const float* x = rows.row(which[i]);
      F32 sums[2] = {L::set(0.0f), L::set(0.0f)};
      for (int64_t k = 0; k < table.inputs; k += 16) {
        const int n = Math::lanes_left(table.inputs - k);
        F32& sum = sums[k / 16 % 2];
        sum = L::fma(L::load(scratch + k, n), L::load(x + k, n), sum);
      }
      out[i] = L::sum(L::add(sums[0], sums[1]));
    }
  }

  static void decode_row(const Tensor& table, int64_t row, float* out) {
    if (is_float(table.dtype)) return decode_floats(table, row, out);
    with_format(table.dtype, [&](auto format) {
      decode_quantized<typename decltype(format)::Block>(table, row, out);
    });
  }

  static void table_dot(const Tensor& table, int64_t row, const Rows& rows, const int32_t* which,
                        int count, float* scratch, float* out) {
    if (is_float(table.dtype)) return float_table_dot(table, row, rows, which, count, scratch, out);
    with_format(table.dtype, [&](auto format) {
      quantized_table_dot<typename decltype(format)::Block>(table, row, rows, which, count, scratch,
                                                            out);
    });
  }
};

}  // namespace f1::cpu
