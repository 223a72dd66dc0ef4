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

  // out[r][i] = row index + r times x[i].
  template <typename Row, int kRows, int kCount>
  static void row_dot(const HeadMatrix& matrix, int64_t index, const HeadBlock* const* x,
                      float (&out)[kRows][kCount]) {
    const Row first(matrix, index), last(matrix, index + kRows - 1);
    F32 sums[kRows][kCount];
    for (int r = 0; r < kRows; ++r)
      for (int i = 0; i < kCount; ++i) sums[r][i] = L::set(0.0f);
    const int64_t num_blocks = matrix.num_blocks();
    for (int64_t b = 0; b < num_blocks; ++b) {
      U8 codes[kRows];
      F32 scales[kRows];
      for (int r = 0; r < kRows; ++r) {
        const Row& row = r == 0 ? first : last;
        prefetch_ahead<kHeadBlock>(row.codes + b * kHeadBlock);
        codes[r] = row.codes_of(b);
        scales[r] = row.scale_of(b);
      }
      for (int i = 0; i < kCount; ++i) {
        const HeadBlock& block = x[i][b];
        const I32 start = L::load(block.starts);
        const U8 x_codes = L::load_bytes(block.codes);
        const F32 x_scale = L::load(block.scales);
        for (int r = 0; r < kRows; ++r) {
          const I32 dot = L::dot(start, codes[r], x_codes);
          sums[r][i] = L::fma(L::to_f32(dot), L::mul(scales[r], x_scale), sums[r][i]);
          if constexpr (Row::kHasMin)
            sums[r][i] =
                L::fma((r == 0 ? first : last).min_of(b), L::load(block.scaled_sums), sums[r][i]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int i = 0; i < kCount; ++i) out[r][i] = L::sum(sums[r][i]);
  }

  // Four hidden states meet two rows at once, which share their reading; fewer take rows straight on.
  template <typename Row, int kCount>
  static void some_rows(const HeadMatrix& matrix, int64_t first, int64_t last,
                        const HeadBlock* const* x, float* const* out) {
    constexpr int kRows = kCount < 4 ? 1 : 2;
    float sums[2][kCount];
    int64_t row = first;
    for (; row + kRows <= last; row += kRows) {
      row_dot<Row, kRows, kCount>(matrix, row, x, reinterpret_cast<float (&)[kRows][kCount]>(sums));
      for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < kCount; ++i) out[i][row + r] = sums[r][i];
    }
    if (row == last) return;
    row_dot<Row, 1, kCount>(matrix, row, x, reinterpret_cast<float (&)[1][kCount]>(sums));
    for (int i = 0; i < kCount; ++i) out[i][row] = sums[0][i];
  }

  // Some rows at a time meet all hidden states, four by four: both stay in the first-level cache.
  template <typename Row>
  static void rows(const HeadMatrix& matrix, int64_t begin, int64_t end, const HeadBlock* const* x,
                   int count, float* const* out) {
    constexpr int64_t kRows = 16;
    for (int64_t first = begin; first < end; first += kRows) {
      const int64_t last = end - first < kRows ? end : first + kRows;
      int i = 0;
      for (; i + 4 <= count; i += 4) some_rows<Row, 4>(matrix, first, last, x + i, out + i);
      if (count - i == 3) some_rows<Row, 3>(matrix, first, last, x + i, out + i);
      if (count - i == 2) some_rows<Row, 2>(matrix, first, last, x + i, out + i);
      if (count - i == 1) some_rows<Row, 1>(matrix, first, last, x + i, out + i);
    }
  }

  template <typename Row>
  static void listed(const HeadMatrix& matrix, const int32_t* tokens, int64_t count,
                     const HeadBlock* x, float* out) {
    constexpr int64_t kRowsAhead = 8;
    for (int64_t j = 0; j < count; ++j) {
      if (j + kRowsAhead < count)
        for (size_t i = 0; i < matrix.row_bytes; i += 64)
          __builtin_prefetch(matrix.scales(tokens[j + kRowsAhead]) + i);
      float sum[1][1];
      row_dot<Row, 1, 1>(matrix, tokens[j], &x, sum);
      out[j] = sum[0][0];
    }
  }

  template <typename Function>
  static void with_row(const HeadMatrix& matrix, Function&& function) {
    switch (matrix.form) {
      case HeadForm::k8Bit:
        return function.template operator()<Row8Bit>();
      case HeadForm::k6Bit:
        return function.template operator()<Row6Bit>();
      case HeadForm::kAnyBits:
        return function.template operator()<RowAnyBits>();
      case HeadForm::kFloats:
        return;  // see TableKernels
    }
  }
  static void dot(const HeadMatrix& matrix, int64_t begin, int64_t end, const HeadBlock* const* x,
                  int count, float* const* out) {
    with_row(matrix, [&]<typename Row> { rows<Row>(matrix, begin, end, x, count, out); });
  }
  static void dot_listed(const HeadMatrix& matrix, const int32_t* tokens, int64_t count,
                         const HeadBlock* x, float* out) {
    with_row(matrix, [&]<typename Row> { listed<Row>(matrix, tokens, count, x, out); });
  }
};

}  // namespace f1::cpu
