// Matrix products over quantised panels.
//
// Inputs are taken block by block, so that their activations stay in the first-level cache. Up to
// kFewTokens: a panel's block is unpacked in registers, once for each kAtOnce tokens (reading
// memory is the limit). More: blocks of two panels are unpacked into the first-level cache and meet
// all tokens there (dot products are the limit). Either way a row's groups are added in their
// order, each by
//
//     sum = dot * (scale_w * scale_x) + sum,    then    sum = min * scaled_sum_x + sum
//
// so the result does not depend on the way.
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

  // Tokens whose sums the registers hold beside a group's codes: whole tiles.
  static constexpr int kAtOnce = L::kRegisters >= 32 ? 2 * kTile : kTile;

  // A group of a panel, ready for the dot products: 16 rows x 32 inputs.
  struct Group {
    U8 codes[kQuads];
    F32 scales[2];  // of all 32 inputs, or of the first and the second 16
    F32 min;
  };
  // The same of some panels, in memory.
  template <int kPanels>
  struct alignas(64) UnpackedGroup {
    uint8_t codes[kPanels][kQuads][64];
    float scales[kPanels][2][kPanelRows];
    float mins[kPanels][kPanelRows];
  };
  static_assert(sizeof(UnpackedGroup<2>) * block_groups(1) <= kPanelScratch);

  template <typename Panel>
  static constexpr bool kHasHalves = std::is_same_v<Panel, HalfGroupPanel>;
  template <typename Panel>
  static constexpr bool kHasMin = Panel::kZero == 0;

  template <int kBits>
  static void unpack_codes(const Codes<kBits>& codes, U8 (&out)[kQuads]) {
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

  // What a panel's groups share, and a group's scales (and min), by kind of panel.
  struct Shared {
    F32 d = L::set(0.0f), minus_dmin = L::set(0.0f);
  };
  template <int kBits, int kZero>
  static Shared shared_of(const ScalePanel<kBits, kZero>&) {
    return {};
  }
  template <int kBits>
  static Shared shared_of(const MinPanel<kBits>&) {
    return {};
  }
  template <int kBits>
  static Shared shared_of(const SuperPanel<kBits>& p) {
    return {L::load_f16(p.d), L::sub(L::set(0.0f), L::load_f16(p.dmin))};
  }
  static Shared shared_of(const HalfGroupPanel& p) { return {.d = L::load_f16(p.d)}; }

  template <int kBits, int kZero>
  static void unpack_scales(const ScalePanel<kBits, kZero>& p, const Shared&, int, Group& out) {
    out.scales[0] = L::load_f16(p.scale);
  }
  template <int kBits>
  static void unpack_scales(const MinPanel<kBits>& p, const Shared&, int, Group& out) {
    out.scales[0] = L::load_f16(p.scale);
    out.min = L::load_f16(p.min);
  }
  template <int kBits>
  static void unpack_scales(const SuperPanel<kBits>& p, const Shared& shared, int g, Group& out) {
    out.scales[0] = L::mul(shared.d, L::load_u8(p.scales[g]));
    out.min = L::mul(shared.minus_dmin, L::load_u8(p.mins[g]));
  }
  static void unpack_scales(const HalfGroupPanel& p, const Shared& shared, int g, Group& out) {
    out.scales[0] = L::mul(shared.d, L::load_s8(p.scales[2 * g]));
    out.scales[1] = L::mul(shared.d, L::load_s8(p.scales[2 * g + 1]));
  }

  // acc + codes of a format with that zero point times codes of activations.
  template <int kZero>
  static I32 dot_of(I32 acc, U8 w, U8 x) {
    if constexpr (kZero == 128) return L::dot(acc, w, x);  // the only codes of 8 bits
    return L::dot_7_bits(acc, w, x);
  }

  // The codes of quads q0 .. q1 - 1 times those of kCount tokens, zero points subtracted.
  // `sums`: which of the three kinds of sums in TileGroup belong to these quads.
  template <int kZero, int kPanels, int kCount, typename CodesOf>
  static void dot(const CodesOf& codes_of, int q0, int q1, const TileGroup* (&x)[num_tiles(kCount)],
                  int sums, I32 (&dots)[kPanels][kCount]) {
    for (int i = 0; i < kCount; ++i) {
      I32 start = L::set(int32_t{0});
      if constexpr (kZero != 0)
        start = L::times_zero_point(L::set(x[i / kTile]->minus_sums[sums][i % kTile]), kZero);
      for (int p = 0; p < kPanels; ++p) dots[p][i] = start;
    }
    if constexpr (kPanels * kCount == 1) {  // two chains: one would wait for itself
      I32 other = L::set(int32_t{0});
      for (int q = q0; q < q1; q += 2) {
        const int8_t* codes = x[0]->codes[0] + 4 * q;
        dots[0][0] = dot_of<kZero>(dots[0][0], codes_of(0, q), L::set_quad(codes));
        other = dot_of<kZero>(other, codes_of(0, q + 1), L::set_quad(codes + 4));
      }
      dots[0][0] = L::add(dots[0][0], other);
      return;
    }
    for (int q = q0; q < q1; ++q) {
      U8 w[kPanels];
      for (int p = 0; p < kPanels; ++p) w[p] = codes_of(p, q);
      for (int i = 0; i < kCount; ++i) {
        const U8 quad = L::set_quad(x[i / kTile]->codes[i % kTile] + 4 * q);
        for (int p = 0; p < kPanels; ++p) dots[p][i] = dot_of<kZero>(dots[p][i], w[p], quad);
      }
    }
  }

  // Adds one group of kPanels panels times kCount tokens to the sums.
  template <typename Panel, int kPanels, int kCount, typename CodesOf, typename ScaleOf,
            typename MinOf>
  static void add_group(const CodesOf& codes_of, const ScaleOf& scale_of, const MinOf& min_of,
                        const TileGroup* (&x)[num_tiles(kCount)], F32 (&sums)[kPanels][kCount]) {
    I32 dots[kPanels][kCount];
    if constexpr (kHasHalves<Panel>) {
      I32 more[kPanels][kCount];
      dot<Panel::kZero, kPanels, kCount>(codes_of, 0, kQuads / 2, x, 1, dots);
      dot<Panel::kZero, kPanels, kCount>(codes_of, kQuads / 2, kQuads, x, 2, more);
      for (int p = 0; p < kPanels; ++p) {
        for (int i = 0; i < kCount; ++i) {
          const F32 second = L::mul(L::to_f32(more[p][i]), scale_of(p, 1));
          const F32 both = L::fma(L::to_f32(dots[p][i]), scale_of(p, 0), second);
          sums[p][i] = L::fma(both, L::set(x[i / kTile]->scales[i % kTile]), sums[p][i]);
        }
      }
    } else {
      dot<Panel::kZero, kPanels, kCount>(codes_of, 0, kQuads, x, 0, dots);
      for (int p = 0; p < kPanels; ++p) {
        for (int i = 0; i < kCount; ++i) {
          const F32 scale = L::mul(scale_of(p, 0), L::set(x[i / kTile]->scales[i % kTile]));
          sums[p][i] = L::fma(L::to_f32(dots[p][i]), scale, sums[p][i]);
          if constexpr (kHasMin<Panel>)
            sums[p][i] =
                L::fma(min_of(p), L::set(x[i / kTile]->scaled_sums[i % kTile]), sums[p][i]);
        }
      }
    }
  }

  // What will be read some groups after group g of `panel`: the processor's own guesses come too
  // late when there is much to do with each group.
  template <typename Panel>
  static void prefetch(const Panel* panel, int g) {
    constexpr size_t kBytes = sizeof(Panel) / Panel::kGroups;
    prefetch_ahead<kBytes>(reinterpret_cast<const std::byte*>(panel) +
                           static_cast<size_t>(g) * kBytes);
  }

  // Adds `count` groups of a panel times kCount tokens to the tile `out`.
  template <typename Panel, int kCount>
  static void direct(const Panel* panels, int64_t count, const Rows& rows, int64_t first_tile,
                     int64_t first_group, float* out) {
    const TileGroup* x[num_tiles(kCount)];
    for (int i = 0; i < num_tiles(kCount); ++i) x[i] = rows.tile(first_tile + i) + first_group;
    F32 sums[1][kCount];
    for (int i = 0; i < kCount; ++i)
      sums[0][i] = first_group == 0 ? L::set(0.0f) : L::load(out + i * kPanelRows);
    for (const Panel* panel = panels; panel != panels + count / Panel::kGroups; ++panel) {
      const Shared shared = shared_of(*panel);
#pragma GCC unroll 1
      for (int g = 0; g < Panel::kGroups; ++g) {
        prefetch(panel, g);
        Group group;
        unpack_codes(panel->codes[g], group.codes);
        unpack_scales(*panel, shared, g, group);
        add_group<Panel, 1, kCount>([&](int, int q) { return group.codes[q]; },
                                    [&](int, int half) { return group.scales[half]; },
                                    [&](int) { return group.min; }, x, sums);
        for (const TileGroup*& tile : x) ++tile;
      }
    }
    for (int i = 0; i < kCount; ++i) L::store(out + i * kPanelRows, sums[0][i]);
  }

  // Groups first .. first + count - 1 of `panel` as number `place` of an unpacked block.
  template <typename Panel, int kPanels>
  static void unpack(const PanelMatrix& matrix, int64_t panel, int64_t first, int64_t count,
                     int place, UnpackedGroup<kPanels>* out) {
    const auto* panels = reinterpret_cast<const Panel*>(matrix.block(panel, first * kGroup));
    for (int64_t i = 0; i < count; ++i) {
      const Panel& source = panels[i / Panel::kGroups];
      const int g = static_cast<int>(i % Panel::kGroups);
      prefetch(&source, g);
      Group group;
      unpack_codes(source.codes[g], group.codes);
      unpack_scales(source, shared_of(source), g, group);
      for (int q = 0; q < kQuads; ++q) L::store_bytes(out[i].codes[place][q], group.codes[q]);
      L::store(out[i].scales[place][0], group.scales[0]);
      if constexpr (kHasHalves<Panel>) L::store(out[i].scales[place][1], group.scales[1]);
      if constexpr (kHasMin<Panel>) L::store(out[i].mins[place], group.min);
    }
  }

  // Adds `count` unpacked groups times a tile of tokens to the tiles out + p * stride.
  template <typename Panel, int kPanels>
  static void add_block(const UnpackedGroup<kPanels>* groups, int64_t count, const TileGroup* tile,
                        bool is_first, float* out, int64_t stride) {
    F32 sums[kPanels][kTile];
    for (int p = 0; p < kPanels; ++p)
      for (int i = 0; i < kTile; ++i)
        sums[p][i] = is_first ? L::set(0.0f) : L::load(out + p * stride + i * kPanelRows);
    for (int64_t g = 0; g < count; ++g) {
      const UnpackedGroup<kPanels>& w = groups[g];
      const TileGroup* x[1] = {tile + g};
      add_group<Panel, kPanels, kTile>([&](int p, int q) { return L::load_bytes(w.codes[p][q]); },
                                       [&](int p, int half) { return L::load(w.scales[p][half]); },
                                       [&](int p) { return L::load(w.mins[p]); }, x, sums);
    }
    for (int p = 0; p < kPanels; ++p)
      for (int i = 0; i < kTile; ++i) L::store(out + p * stride + i * kPanelRows, sums[p][i]);
  }

  // Calls function(first group, number of groups) for every block of inputs.
  template <typename Panel, typename Function>
  static void for_blocks(int64_t num_groups, const Function& function) {
    constexpr int64_t kBlock = block_groups(Panel::kGroups);
    for (int64_t first = 0; first < num_groups; first += kBlock)
      function(first, num_groups - first < kBlock ? num_groups - first : kBlock);
  }

  template <typename Panel>
  using Direct = void (*)(const Panel*, int64_t, const Rows&, int64_t, int64_t, float*);

  // direct() for that many tokens.
  template <typename Panel, int kCount = kAtOnce>
  static Direct<Panel> direct_of(int64_t num_tokens) {
    if constexpr (kCount > 1)
      if (num_tokens < kCount) return direct_of<Panel, kCount - 1>(num_tokens);
    return direct<Panel, kCount>;
  }

  template <typename Panel>
  static void few_tokens(const PanelMatrix& matrix, int64_t panel, int num_panels, const Rows& rows,
                         int64_t num_tokens, float* out) {
    for_blocks<Panel>(matrix.inputs / kGroup, [&](int64_t first, int64_t count) {
      for (int p = 0; p < num_panels; ++p) {
        const auto* panels =
            reinterpret_cast<const Panel*>(matrix.block(panel + p, first * kGroup));
        float* tile = out + p * panel_stride(num_tokens);
        for (int64_t t = 0; t < num_tokens; t += kAtOnce) {
          const int64_t left = num_tokens - t < kAtOnce ? num_tokens - t : kAtOnce;
          direct_of<Panel>(left)(panels, count, rows, t / kTile, first, tile + t * kPanelRows);
        }
      }
    });
  }

  template <typename Panel, int kPanels>
  static void many_tokens(const PanelMatrix& matrix, int64_t panel, const Rows& rows,
                          int64_t num_tokens, std::byte* scratch, float* out) {
    auto* unpacked = reinterpret_cast<UnpackedGroup<kPanels>*>(scratch);
    for_blocks<Panel>(matrix.inputs / kGroup, [&](int64_t first, int64_t count) {
      for (int p = 0; p < kPanels; ++p) unpack<Panel>(matrix, panel + p, first, count, p, unpacked);
      for (int64_t i = 0; i < num_tiles(num_tokens); ++i)
        add_block<Panel, kPanels>(unpacked, count, rows.tile(i) + first, first == 0,
                                  out + i * kTile * kPanelRows, panel_stride(num_tokens));
    });
  }

  template <typename Panel>
  static void quantized(const PanelMatrix& matrix, int64_t panel, int num_panels, const Rows& rows,
                        int64_t num_tokens, std::byte* scratch, float* out) {
    if (num_tokens <= kFewTokens)
      return few_tokens<Panel>(matrix, panel, num_panels, rows, num_tokens, out);
    for (int p = 0; p < num_panels; p += 2) {
      float* tiles = out + p * panel_stride(num_tokens);
      if (num_panels - p >= 2)
        many_tokens<Panel, 2>(matrix, panel + p, rows, num_tokens, scratch, tiles);
      else
        many_tokens<Panel, 1>(matrix, panel + p, rows, num_tokens, scratch, tiles);
    }
  }

  static void floats(const PanelMatrix& matrix, int64_t panel, int num_panels, const Rows& rows,
                     int64_t num_tokens, float* out) {
    for (int p = 0; p < num_panels; ++p) {
      float* tile = out + p * panel_stride(num_tokens);
      int64_t done = 0;
      for (; num_tokens - done >= kTile; done += kTile)
        FloatKernels<L>::template dot<kTile>(matrix, panel + p, rows, done,
                                             tile + done * kPanelRows);
      for (; done < num_tokens; ++done)
        FloatKernels<L>::template dot<1>(matrix, panel + p, rows, done, tile + done * kPanelRows);
    }
  }

  static void panels_dot(const PanelMatrix& matrix, int64_t panel, int num_panels, const Rows& rows,
                         int64_t num_tokens, std::byte* scratch, float* out) {
    if (is_float(matrix.dtype)) return floats(matrix, panel, num_panels, rows, num_tokens, out);
    with_format(matrix.dtype, [&](auto format) {
      quantized<PanelOf<typename decltype(format)::Block>>(matrix, panel, num_panels, rows,
                                                           num_tokens, scratch, out);
    });
  }
};

}  // namespace f1::cpu
