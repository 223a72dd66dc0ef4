// Rows of the head times hidden states: 16 rows at a time become a panel's groups (head_rows.h) in
// registers. All rows or listed ones, few hidden states or many: a row's sums are the same.
#pragma once

#include "backend/cpu/head_rows.h"
#include "backend/cpu/panel_kernels.h"

namespace f1::cpu {

template <typename L>
struct HeadKernels {
  using F32 = typename L::F32;
  using U8 = typename L::U8;
  using Panels = PanelKernels<L>;

  static constexpr int64_t kBlockGroups = 32;  // the groups of 1024 inputs

  // Sixteen rows: where the first line of each is, and what to ask for while it is read.
  struct Neighbours {
    const std::byte* first;
    const std::byte* row(int r) const { return first + r * kLine; }
    const std::byte* soon(int r) const { return row(r) + kAhead; }
  };
  struct Listed {
    const std::byte* rows[kPanelRows];
    const std::byte* next[kPanelRows];
    const std::byte* row(int r) const { return rows[r]; }
    const std::byte* soon(int r) const { return next[r]; }
  };
  // Calls put(k, vector): dword k of a line of each row, row after row.
  template <typename Rows16, typename Put>
  static void turn_line(const Rows16& from, size_t line, const Put& put) {
    for (int r = 0; r < kPanelRows; ++r) __builtin_prefetch(from.soon(r) + line * kLineStride);
    L::transpose([&](int r) { return from.row(r) + line * kLineStride; }, put);
  }
  template <typename Rows16>
  static void turn(const Rows16& from, size_t line, U8 (&out)[16]) {
    turn_line(from, line, [&](int k, U8 v) { out[k] = v; });
  }
  struct alignas(kLine) Turned {
    uint8_t dwords[16][kLine];
  };
  template <typename Rows16>
  static void turn(const Rows16& from, size_t line, Turned& out) {
    turn_line(from, line, [&](int k, U8 v) { L::store_bytes(out.dwords[k], v); });
  }

  // By form: what kind of panel's arithmetic it has, and its groups first .. first + count - 1, one
  // by one as function(index, codes_of(_, quad), scale_of(_, half), min_of(_)). `first` is a
  // multiple of kBlockGroups.
  struct Rows8Bit {
    using Panel = ScalePanel<8, 128>;
    template <typename Rows16, typename Function>
    static void for_groups(const HeadMatrix&, const Rows16& from, int64_t first, int64_t count,
                           const Function& function) {
      const auto begin = static_cast<size_t>(first / 32 * kLines8Bit);
      Turned scales;
      turn(from, begin, scales);
      for (int64_t i = 0; i < count; i += 2) {
        U8 line[16];
        turn(from, begin + 1 + static_cast<size_t>(i / 2), line);
        const uint8_t* pair = scales.dwords[i / 2];
        const F32 a = L::template load_f16_of_pairs<0>(pair);
        function(i, [&](int, int q) { return line[q]; }, [&](int, int) { return a; }, no_min);
        if (i + 1 == count) return;
        const F32 b = L::template load_f16_of_pairs<1>(pair);
        function(
            i + 1, [&](int, int q) { return line[kQuads + q]; }, [&](int, int) { return b; },
            no_min);
      }
    }
  };

  struct Rows6Bit {
    using Panel = HalfGroupPanel;
    template <typename Rows16, typename Function>
    static void for_groups(const HeadMatrix&, const Rows16& from, int64_t first, int64_t count,
                           const Function& function) {
      const auto begin = static_cast<size_t>(first / 32 * kLines6Bit);
      Turned scales, d, high;
      turn(from, begin, scales);
      turn(from, begin + 1, d);
      for (int64_t i = 0; i < count; i += 8) {
        const int64_t super = i / 8;
        const size_t planes = begin + 2 + static_cast<size_t>(3 * super);
        const uint8_t* pair = d.dwords[super / 2];
        const F32 factor = super % 2 == 0 ? L::template load_f16_of_pairs<0>(pair)
                                          : L::template load_f16_of_pairs<1>(pair);
        turn(from, planes, high);
        four_groups<0>(from, planes + 1, high, scales.dwords + i / 2, factor, i, function);
        four_groups<1>(from, planes + 2, high, scales.dwords + i / 2 + 2, factor, i + 4, function);
      }
    }
    // Blocks 2 * kLow and 2 * kLow + 1 of 64 inputs: the low and the high nibbles of a line.
    template <int kLow, typename Rows16, typename Function>
    static void four_groups(const Rows16& from, size_t plane, const Turned& high,
                            const uint8_t (*scales)[kLine], F32 factor, int64_t i,
                            const Function& function) {
      U8 line[16];
      turn(from, plane, line);
      const auto group = [&]<int kBlock, int kHalf> {
        const F32 a = L::mul(factor, L::template load_s8_of_quads<2 * kHalf>(scales[kBlock]));
        const F32 b = L::mul(factor, L::template load_s8_of_quads<2 * kHalf + 1>(scales[kBlock]));
        function(
            i + 2 * kBlock + kHalf,
            [&](int, int q) {
              const int k = kHalf * kQuads + q;
              const U8 four = kBlock == 0 ? L::low_nibbles(line[k]) : L::high_nibbles(line[k]);
              return L::template add_bits45<2 * kLow + kBlock>(four, L::load_bytes(high.dwords[k]));
            },
            [&](int, int half) { return half == 0 ? a : b; }, no_min);
      };
      group.template operator()<0, 0>();
      group.template operator()<0, 1>();
      group.template operator()<1, 0>();
      group.template operator()<1, 1>();
    }
  };

  struct RowsAnyBits {
    using Panel = MinPanel<4>;
    template <typename Rows16, typename Function>
    static void for_groups(const HeadMatrix& matrix, const Rows16& from, int64_t first,
                           int64_t count, const Function& function) {
      Turned scales, mins;
      const F32 minus_zero = L::set(static_cast<float>(-matrix.zero_point));
      U8 line[16];
      for (int64_t i = 0; i < count; ++i) {
        const auto begin = static_cast<size_t>((first + i) / 16 * kLinesAnyBits);
        if (i % 16 == 0) {
          turn(from, begin, scales);
          turn(from, begin + 1, mins);
        }
        if (i % 2 == 0) turn(from, begin + 2 + static_cast<size_t>(i % 16 / 2), line);
        const F32 scale = L::load(reinterpret_cast<const float*>(scales.dwords[i % 16]));
        const F32 min = L::load(reinterpret_cast<const float*>(mins.dwords[i % 16]));
        function(
            i, [&](int, int q) { return line[i % 2 * kQuads + q]; },
            [&](int, int) { return scale; }, [&](int) { return L::fma(minus_zero, scale, min); });
      }
    }
  };

  static F32 no_min(int) { return L::set(0.0f); }

  // products[token][16] of 16 rows; what some tokens have read, the next find in the cache.
  template <typename Form, typename Rows16>
  static void dot_of(const HeadMatrix& matrix, const Rows16& from, const TileGroup* tiles,
                     int64_t num_tokens, float* products) {
    const int64_t num_groups = matrix.tensor.inputs / kGroup;
    for (int64_t t = 0; t < num_tokens; t += Panels::kAtOnce)
      some_tokens<Form>(matrix, from, tiles + t / kTile * num_groups, num_tokens - t,
                        products + t * kPanelRows);
  }

  // Of the first kCount tokens, or as many as there are.
  template <typename Form, int kCount = Panels::kAtOnce, typename Rows16>
  static void some_tokens(const HeadMatrix& matrix, const Rows16& from, const TileGroup* tiles,
                          int64_t num_tokens, float* products) {
    if constexpr (kCount > 1)
      if (num_tokens < kCount)
        return some_tokens<Form, kCount - 1>(matrix, from, tiles, num_tokens, products);
    F32 sums[1][kCount];
    for (int i = 0; i < kCount; ++i) sums[0][i] = L::set(0.0f);
    const int64_t num_groups = matrix.tensor.inputs / kGroup;
    for (int64_t first = 0; first < num_groups; first += kBlockGroups) {
      const int64_t left = num_groups - first, count = left < kBlockGroups ? left : kBlockGroups;
      Form::for_groups(
          matrix, from, first, count,
          [&](int64_t i, const auto& codes_of, const auto& scale_of, const auto& min_of) {
            const TileGroup* x[num_tiles(kCount)];
            for (int t = 0; t < num_tiles(kCount); ++t) x[t] = tiles + t * num_groups + first + i;
            Panels::template add_group<typename Form::Panel, 1, kCount>(codes_of, scale_of, min_of,
                                                                        x, sums);
          });
    }
    for (int i = 0; i < kCount; ++i) L::store(products + i * kPanelRows, sums[0][i]);
  }

  template <typename Function>
  static void with_form(const HeadMatrix& matrix, Function&& function) {
    switch (matrix.form) {
      case HeadForm::k8Bit:
        return function.template operator()<Rows8Bit>();
      case HeadForm::k6Bit:
        return function.template operator()<Rows6Bit>();
      case HeadForm::kAnyBits:
        return function.template operator()<RowsAnyBits>();
      case HeadForm::kFloats:
        return;  // see TableKernels
    }
  }

  static void dot(const HeadMatrix& matrix, int64_t begin, int64_t end, const TileGroup* x,
                  int64_t num_tokens, float* products, float* const* out) {
    for (int64_t row = begin; row < end; row += kPanelRows) {
      const Neighbours from{matrix.row(row)};  // zeros beyond the last
      with_form(matrix,
                [&]<typename Form> { dot_of<Form>(matrix, from, x, num_tokens, products); });
      const int n = end - row < kPanelRows ? static_cast<int>(end - row) : kPanelRows;
      for (int64_t i = 0; i < num_tokens; ++i)
        L::store(out[i] + row, L::load(products + i * kPanelRows), n);
    }
  }

  static void dot_listed(const HeadMatrix& matrix, const int32_t* tokens, int64_t count,
                         const TileGroup* x, float* out) {
    const auto row_at = [&](int64_t j) { return matrix.row(tokens[j < count ? j : count - 1]); };
    for (int64_t j = 0; j < count; j += kPanelRows) {
      Listed from;
      for (int64_t r = 0; r < kPanelRows; ++r) {
        from.rows[r] = row_at(j + r);
        from.next[r] = row_at(j + kPanelRows + r);
      }
      float products[kPanelRows] = {};
      with_form(matrix, [&]<typename Form> { dot_of<Form>(matrix, from, x, 1, products); });
      const int n = count - j < kPanelRows ? static_cast<int>(count - j) : kPanelRows;
      L::store(out + j, L::load(products), n);
    }
  }
};

}  // namespace f1::cpu
