// Rows of the head times hidden states.
#pragma once

#include "backend/cpu/head_rows.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/row_kernels.h"

namespace f1::cpu {

template <typename L>
struct HeadKernels {
  using F32 = typename L::F32;
  using I32 = typename L::I32;
  using U8 = typename L::U8;

  // As RowKernels::quantize, laid out for the head.
  static void quantize(const float* values, int64_t inputs, int zero_point, HeadBlock* out) {
    for (int64_t g = 0; g < inputs / kGroup; ++g) {
      HeadBlock& block = out[g / 2];
      const int64_t half = g % 2;
      int8_t* codes = block.codes + half * kGroup;
      const auto [scale, sum_a, sum_b] = RowKernels<L>::quantize_group(values + g * kGroup, codes);
      for (int lane = 0; lane < 8; ++lane) {
        int32_t sum = 0;
        for (int j = 0; j < 4; ++j) sum += codes[lane * 4 + j];
        block.starts[half * 8 + lane] = -zero_point * sum;
        block.scales[half * 8 + lane] = scale;
        block.scaled_sums[half * 8 + lane] = 0;
      }
      block.scaled_sums[half * 8] = scale * static_cast<float>(sum_a + sum_b);
    }
  }

  // What block b of a row unpacks to, by form.
  struct Row8Bit {
    static constexpr bool kHasMin = false;
    const std::byte* codes;
    const uint16_t* scales;
    Row8Bit(const HeadMatrix& m, int64_t row)
        : codes(m.codes(row)), scales(reinterpret_cast<const uint16_t*>(m.scales(row))) {}
    U8 codes_of(int64_t b) const { return L::load_bytes(codes + b * kHeadBlock); }
    F32 scale_of(int64_t b) const { return L::spread2_f16(scales + 2 * b); }
  };
  struct Row6Bit {
    static constexpr bool kHasMin = false;
    const std::byte* codes;
    const int8_t* scales;
    const uint16_t* d;
    Row6Bit(const HeadMatrix& m, int64_t row)
        : codes(m.codes(row)),
          scales(reinterpret_cast<const int8_t*>(m.scales(row))),
          d(reinterpret_cast<const uint16_t*>(scales + m.tensor.inputs / 16)) {}
    U8 codes_of(int64_t b) const {
      const std::byte* planes = codes + b / 4 * 192;
      const U8 both = L::load_bytes(planes + b % 4 / 2 * kHeadBlock);
      const U8 low = b % 2 == 0 ? L::low_nibbles(both) : L::high_nibbles(both);
      const U8 plane = L::load_bytes(planes + 2 * kHeadBlock);
      switch (b % 4) {
        case 0:
          return L::template add_bits45<0>(low, plane);
        case 1:
          return L::template add_bits45<1>(low, plane);
        case 2:
          return L::template add_bits45<2>(low, plane);
        default:
          return L::template add_bits45<3>(low, plane);
      }
    }
    F32 scale_of(int64_t b) const {
      return L::mul(L::set_f16(d[b / 4]), L::spread4_s8(scales + 4 * b));
    }
  };
  struct RowAnyBits {
    static constexpr bool kHasMin = true;
    const std::byte* codes;
    const float* scales;
    const float* mins;
    RowAnyBits(const HeadMatrix& m, int64_t row)
        : codes(m.codes(row)),
          scales(reinterpret_cast<const float*>(m.scales(row))),
          mins(scales + m.num_blocks() * 2) {}
    U8 codes_of(int64_t b) const { return L::load_bytes(codes + b * kHeadBlock); }
    F32 scale_of(int64_t b) const { return L::spread2(scales + 2 * b); }
    F32 min_of(int64_t b) const { return L::spread2(mins + 2 * b); }
  };

  template <typename Row, int kCount>
  static void dot_of(const HeadMatrix& matrix, int64_t index, const HeadBlock* const* x,
                     float* out) {
    const Row row(matrix, index);
    F32 sums[kCount];
    for (int i = 0; i < kCount; ++i) sums[i] = L::set(0.0f);
    const int64_t num_blocks = matrix.num_blocks();
    for (int64_t b = 0; b < num_blocks; ++b) {
      prefetch_ahead<kHeadBlock>(row.codes + b * kHeadBlock);
      const U8 codes = row.codes_of(b);
      const F32 scale = row.scale_of(b);
      for (int i = 0; i < kCount; ++i) {
        const HeadBlock& block = x[i][b];
        const I32 dot = L::dot(L::load(block.starts), codes, L::load_bytes(block.codes));
        sums[i] = L::fma(L::to_f32(dot), L::mul(scale, L::load(block.scales)), sums[i]);
        if constexpr (Row::kHasMin)
          sums[i] = L::fma(row.min_of(b), L::load(block.scaled_sums), sums[i]);
      }
    }
    for (int i = 0; i < kCount; ++i) out[i] = L::sum(sums[i]);
  }

  template <typename Row>
  static void dot_any(const HeadMatrix& matrix, int64_t index, const HeadBlock* const* x, int count,
                      float* out) {
    for (; count >= 4; count -= 4, x += 4, out += 4) dot_of<Row, 4>(matrix, index, x, out);
    switch (count) {
      case 3:
        return dot_of<Row, 3>(matrix, index, x, out);
      case 2:
        return dot_of<Row, 2>(matrix, index, x, out);
      case 1:
        return dot_of<Row, 1>(matrix, index, x, out);
    }
  }

  // Not for floats: see TableKernels.
  static void dot(const HeadMatrix& matrix, int64_t index, const HeadBlock* const* x, int count,
                  float* out) {
    switch (matrix.form) {
      case HeadForm::k8Bit:
        return dot_any<Row8Bit>(matrix, index, x, count, out);
      case HeadForm::k6Bit:
        return dot_any<Row6Bit>(matrix, index, x, count, out);
      default:
        return dot_any<RowAnyBits>(matrix, index, x, count, out);
    }
  }
};

}  // namespace f1::cpu
