// Matrix products over panels.
#pragma once

#include "backend/cpu/float_kernels.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/panels.h"
#include "backend/formats.h"

namespace f1::cpu {

template <typename L>
struct PanelKernels {
  using F32 = typename L::F32;
  using I32 = typename L::I32;
  using U8 = typename L::U8;

  template <int kCount>
  struct Tile {
    F32 sums[kCount];
  };

  template <int kBits>
  static void unpack(const Codes<kBits>& codes, U8 (&out)[kQuads]) {
    if constexpr (kBits == 8) {
      for (int i = 0; i < kQuads; ++i) out[i] = L::load_bytes(codes.bytes[i]);
    } else {
      for (int i = 0; i < kQuads / 2; ++i) {
        const U8 both = L::load_bytes(codes.nibbles[i]);
        out[2 * i] = L::low_nibbles(both);
        out[2 * i + 1] = L::high_nibbles(both);
      }
    }
    if constexpr (kBits == 5)
      for (int i = 0; i < kQuads; ++i) out[i] = L::add_16(out[i], codes.bit4[i]);
    if constexpr (kBits == 6) {
      for (int i = 0; i < 2; ++i) {
        const U8 plane = L::load_bytes(codes.bits45[i]);
        out[4 * i + 0] = L::template add_bits45<0>(out[4 * i + 0], plane);
        out[4 * i + 1] = L::template add_bits45<1>(out[4 * i + 1], plane);
        out[4 * i + 2] = L::template add_bits45<2>(out[4 * i + 2], plane);
        out[4 * i + 3] = L::template add_bits45<3>(out[4 * i + 3], plane);
      }
    }
  }

  // Scales (and mins) of a panel's group, by kind of panel.
  template <int kBits, int kZero>
  static F32 scale_of(const ScalePanel<kBits, kZero>& p, int) {
    return L::load_f16(p.scale);
  }
  template <int kBits>
  static F32 scale_of(const MinPanel<kBits>& p, int) {
    return L::load_f16(p.scale);
  }
  template <int kBits>
  static F32 min_of(const MinPanel<kBits>& p, int) {
    return L::load_f16(p.min);
  }
  template <int kBits>
  static F32 scale_of(const SuperPanel<kBits>& p, int g) {
    return L::mul(L::load_f16(p.d), L::load_u8(p.scales[g]));
  }
  template <int kBits>
  static F32 min_of(const SuperPanel<kBits>& p, int g) {
    return L::sub(L::set(0.0f), L::mul(L::load_f16(p.dmin), L::load_u8(p.mins[g])));
  }

  // The group's integer dot products with one token, zero point subtracted. Quads q0 .. q1 - 1.
  template <int kZero>
  static I32 group_dot(const U8 (&w)[kQuads], int q0, int q1, const int8_t* codes,
                       int32_t minus_sum) {
    I32 dot = L::set(int32_t{0});
    if constexpr (kZero != 0) dot = L::times_zero_point(L::set(minus_sum), kZero);
    for (int q = q0; q < q1; ++q) dot = L::dot_quad(dot, w[q], codes + 4 * q);
    return dot;
  }

  template <typename Panel, int kCount>
  static void add_group(const Panel& panel, int g, int64_t group, const Rows& rows, int64_t first,
                        Tile<kCount>& tile) {
    const int64_t width = padded(rows.inputs);
    U8 w[kQuads];
    unpack(panel.codes[g], w);
    const F32 scale = scale_of(panel, g);
    for (int i = 0; i < kCount; ++i) {
      const int64_t t = first + i;
      const int32_t* sums = rows.minus_sums + t * width / 16 + 2 * group;
      const I32 dot = group_dot<Panel::kZero>(w, 0, kQuads, rows.codes + t * width + group * kGroup,
                                              sums[0] + sums[1]);
      const F32 both = L::mul(scale, L::set(rows.scales[t * width / kGroup + group]));
      tile.sums[i] = L::fma(L::to_f32(dot), both, tile.sums[i]);
      if constexpr (Panel::kZero == 0) {  // the formats without a zero point have mins
        const F32 sum = L::set(rows.scaled_sums[t * width / kGroup + group]);
        tile.sums[i] = L::fma(min_of(panel, g), sum, tile.sums[i]);
      }
    }
  }

  template <int kCount>
  static void add_group(const HalfGroupPanel& panel, int g, int64_t group, const Rows& rows,
                        int64_t first, Tile<kCount>& tile) {
    constexpr int kZero = HalfGroupPanel::kZero;
    const int64_t width = padded(rows.inputs);
    U8 w[kQuads];
    unpack(panel.codes[g], w);
    const F32 d = L::load_f16(panel.d);
    const F32 scale_a = L::mul(d, L::load_s8(panel.scales[2 * g]));
    const F32 scale_b = L::mul(d, L::load_s8(panel.scales[2 * g + 1]));
    for (int i = 0; i < kCount; ++i) {
      const int64_t t = first + i;
      const int8_t* codes = rows.codes + t * width + group * kGroup;
      const int32_t* sums = rows.minus_sums + t * width / 16 + 2 * group;
      const I32 dot_a = group_dot<kZero>(w, 0, kQuads / 2, codes, sums[0]);
      const I32 dot_b = group_dot<kZero>(w, kQuads / 2, kQuads, codes, sums[1]);
      const F32 x = L::set(rows.scales[t * width / kGroup + group]);
      const F32 halves = L::fma(L::to_f32(dot_a), scale_a, L::mul(L::to_f32(dot_b), scale_b));
      tile.sums[i] = L::fma(halves, x, tile.sums[i]);
    }
  }

  template <typename Panel, int kCount>
  static void quantized_dot(const PanelMatrix& matrix, int64_t panel, const Rows& rows,
                            int64_t first, float* out) {
    const auto* panels = reinterpret_cast<const Panel*>(matrix.panel(panel));
    const int64_t num_panels = matrix.inputs / (kGroup * Panel::kGroups);
    Tile<kCount> tile;
    for (int i = 0; i < kCount; ++i) tile.sums[i] = L::set(0.0f);
    for (int64_t p = 0; p < num_panels; ++p)
      for (int g = 0; g < Panel::kGroups; ++g)
        add_group(panels[p], g, p * Panel::kGroups + g, rows, first, tile);
    for (int i = 0; i < kCount; ++i) L::store(out + i * kPanelRows, tile.sums[i]);
  }

  template <int kCount>
  static void panel_dot_of(const PanelMatrix& matrix, int64_t panel, const Rows& rows,
                           int64_t first, float* out) {
    if (is_float(matrix.dtype))
      return FloatKernels<L>::template dot<kCount>(matrix, panel, rows, first, out);
    with_format(matrix.dtype, [&](auto format) {
      quantized_dot<PanelOf<typename decltype(format)::Block>, kCount>(matrix, panel, rows, first,
                                                                       out);
    });
  }

  static void panel_dot(const PanelMatrix& matrix, int64_t panel, const Rows& rows, int64_t first,
                        int count, float* tile) {
    int done = 0;
    for (; count - done >= 8; done += 8)
      panel_dot_of<8>(matrix, panel, rows, first + done, tile + done * kPanelRows);
    for (; count - done >= 2; done += 2)
      panel_dot_of<2>(matrix, panel, rows, first + done, tile + done * kPanelRows);
    for (; done < count; ++done)
      panel_dot_of<1>(matrix, panel, rows, first + done, tile + done * kPanelRows);
  }
};

}  // namespace f1::cpu
