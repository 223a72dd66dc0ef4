// All CPU kernels, once, over a Lanes type. Each row's sums have one order: along the inputs, lane by
// lane, whatever the number of rows worked on together.
#pragma once

#include <cstring>

#include "backend/cpu/formats.h"
#include "backend/cpu/kernels.h"

namespace f1::cpu {

template <typename L>
struct KernelsOf {
  using F32 = typename L::F32;
  using I32 = typename L::I32;
  using U8 = typename L::U8;

  // ---- row-wise functions ------------------------------------------------------------------------

  static void rms_norm(const float* x, const float* weight, int64_t size, float eps, float* out) {
    F32 squares = L::set(0.0f);
    for (int64_t i = 0; i < size; i += 16) {
      const F32 v = L::load(x + i, lanes_left(size - i));
      squares = L::fma(v, v, squares);
    }
    const float mean = L::sum(squares) / static_cast<float>(size);
    const F32 factor = L::set(1.0f / __builtin_sqrtf(mean + eps));
    for (int64_t i = 0; i < size; i += 16) {
      const int n = lanes_left(size - i);
      const F32 scaled = L::mul(L::load(x + i, n), factor);
      L::store(out + i, L::mul(scaled, L::load(weight + i, n)), n);
    }
  }

  static void quantize(const Rows& rows, int64_t t) {
    const int64_t width = padded(rows.inputs);
    const float* values = rows.row(t);
    for (int64_t g = 0; g < rows.inputs / kGroup; ++g) {
      const F32 a = L::load(values + g * kGroup), b = L::load(values + g * kGroup + 16);
      const float largest = L::largest(L::max(L::abs(a), L::abs(b)));
      const float scale = largest / 127.0f;
      const F32 inverse = L::set(largest > 0.0f ? 127.0f / largest : 0.0f);
      const I32 code_a = L::to_i32(L::round(L::mul(a, inverse)));
      const I32 code_b = L::to_i32(L::round(L::mul(b, inverse)));
      int8_t* codes = rows.codes + t * width + g * kGroup;
      L::store_s8(codes, code_a);
      L::store_s8(codes + 16, code_b);
      const int32_t sum_a = L::sum(code_a), sum_b = L::sum(code_b);
      rows.minus_sums[t * width / 16 + 2 * g] = -sum_a;
      rows.minus_sums[t * width / 16 + 2 * g + 1] = -sum_b;
      rows.scales[t * width / kGroup + g] = scale;
      rows.scaled_sums[t * width / kGroup + g] = scale * static_cast<float>(sum_a + sum_b);
    }
  }

  static void silu_mul(const float* gate, const float* up, int64_t size, float* out) {
    for (int64_t i = 0; i < size; i += 16) {
      const int n = lanes_left(size - i);
      const F32 g = L::load(gate + i, n);
      const F32 sigmoid_inverse = L::add(L::set(1.0f), exp(L::sub(L::set(0.0f), g)));
      L::store(out + i, L::mul(L::div(g, sigmoid_inverse), L::load(up + i, n)), n);
    }
  }

  // ---- matrix products over panels ---------------------------------------------------------------

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
  static F32 scale_of(const ScalePanel<kBits, kZero>& p, int) { return L::load_f16(p.scale); }
  template <int kBits>
  static F32 scale_of(const MinPanel<kBits>& p, int) { return L::load_f16(p.scale); }
  template <int kBits>
  static F32 min_of(const MinPanel<kBits>& p, int) { return L::load_f16(p.min); }
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

  // Floats: four sums, of inputs 4k, 4k + 1, ..., hide the latency of one.
  template <F32 (*kLoad)(const std::byte*), int kWidth, int kCount>
  static void float_dot(const PanelMatrix& matrix, int64_t panel, const Rows& rows, int64_t first,
                        float* out) {
    const std::byte* weights = matrix.panel(panel);
    for (int i = 0; i < kCount; ++i) {
      const float* x = rows.row(first + i);
      F32 sums[4] = {L::set(0.0f), L::set(0.0f), L::set(0.0f), L::set(0.0f)};
      for (int64_t k = 0; k < matrix.inputs; ++k)
        sums[k % 4] = L::fma(kLoad(weights + k * kPanelRows * kWidth), L::set(x[k]), sums[k % 4]);
      L::store(out + i * kPanelRows, L::add(L::add(sums[0], sums[1]), L::add(sums[2], sums[3])));
    }
  }

  static F32 load_f32_bytes(const std::byte* p) {
    return L::load(reinterpret_cast<const float*>(p));
  }
  static F32 load_f16_bytes(const std::byte* p) {
    return L::load_f16(reinterpret_cast<const uint16_t*>(p));
  }
  static F32 load_bf16_bytes(const std::byte* p) {
    return L::load_bf16(reinterpret_cast<const uint16_t*>(p));
  }

  template <int kCount>
  static void panel_dot_of(const PanelMatrix& matrix, int64_t panel, const Rows& rows, int64_t first,
                           float* out) {
    switch (matrix.dtype) {
      case DType::kF32:
        return float_dot<load_f32_bytes, 4, kCount>(matrix, panel, rows, first, out);
      case DType::kF16:
        return float_dot<load_f16_bytes, 2, kCount>(matrix, panel, rows, first, out);
      case DType::kBF16:
        return float_dot<load_bf16_bytes, 2, kCount>(matrix, panel, rows, first, out);
      case DType::kQ4_0:
        return quantized_dot<ScalePanel<4, 8>, kCount>(matrix, panel, rows, first, out);
      case DType::kQ5_0:
        return quantized_dot<ScalePanel<5, 16>, kCount>(matrix, panel, rows, first, out);
      case DType::kQ8_0:
        return quantized_dot<ScalePanel<8, 128>, kCount>(matrix, panel, rows, first, out);
      case DType::kQ4_1:
        return quantized_dot<MinPanel<4>, kCount>(matrix, panel, rows, first, out);
      case DType::kQ5_1:
        return quantized_dot<MinPanel<5>, kCount>(matrix, panel, rows, first, out);
      case DType::kQ4_K:
        return quantized_dot<SuperPanel<4>, kCount>(matrix, panel, rows, first, out);
      case DType::kQ5_K:
        return quantized_dot<SuperPanel<5>, kCount>(matrix, panel, rows, first, out);
      case DType::kQ6_K:
        return quantized_dot<HalfGroupPanel, kCount>(matrix, panel, rows, first, out);
    }
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

  // ---- attention ---------------------------------------------------------------------------------

  static constexpr float kMinusInfinity = -1e30f;  // finite: the difference of two is 0, not NaN

  // Online softmax (Milakov & Gimelshein, arXiv 1805.02867), page by page, for kHeads query heads.
  template <int kHeads>
  static void attend_heads(const AttendTask& task, int first_head) {
    const int width = task.head_dim;
    const float* query = task.query + first_head * width;
    float* out = task.out + first_head * width;
    float maxima[kHeads], sums[kHeads];
    for (int h = 0; h < kHeads; ++h) {
      maxima[h] = kMinusInfinity;
      sums[h] = 0.0f;
    }
    std::memset(out, 0, sizeof(float) * static_cast<size_t>(kHeads * width));
    for (int begin = 0; begin < task.num_positions; begin += 16) {
      const int64_t page = task.page_ids[begin / 16] * task.page_stride;
      const int n = lanes_left(task.num_positions - begin);
      F32 scores[kHeads];
      page_scores<kHeads>(task.keys + page, query, width, scores);
      float weights[kHeads][16], fades[kHeads];
      for (int h = 0; h < kHeads; ++h) {
        const F32 legal = L::first(n, scores[h], L::set(kMinusInfinity));
        const float largest = L::largest(L::max(legal, L::set(maxima[h])));
        fades[h] = exp_of(maxima[h] - largest);
        const F32 weight = L::first(n, exp(L::sub(legal, L::set(largest))), L::set(0.0f));
        L::store(weights[h], weight);
        sums[h] = sums[h] * fades[h] + L::sum(weight);
        maxima[h] = largest;
      }
      add_values<kHeads>(task.values + page, n, width, weights, fades, out);
    }
    for (int h = 0; h < kHeads; ++h) {
      const F32 inverse = L::set(1.0f / sums[h]);
      for (int e = 0; e < width; e += 16) {
        float* p = out + h * width + e;
        L::store(p, L::mul(L::load(p, lanes_left(width - e)), inverse), lanes_left(width - e));
      }
    }
  }

  template <int kHeads>
  static void page_scores(const uint16_t* keys, const float* query, int width, F32 (&scores)[kHeads]) {
    for (int h = 0; h < kHeads; ++h) scores[h] = L::set(0.0f);
    for (int e = 0; e < width; ++e) {
      const F32 key = L::load_f16(keys + e * 16);
      for (int h = 0; h < kHeads; ++h)
        scores[h] = L::fma(key, L::set(query[h * width + e]), scores[h]);
    }
  }

  template <int kHeads>
  static void add_values(const uint16_t* values, int n, int width, const float (&weights)[kHeads][16],
                         const float (&fades)[kHeads], float* out) {
    for (int e = 0; e < width; e += 16) {
      const int lanes = lanes_left(width - e);
      F32 sums[kHeads];
      for (int h = 0; h < kHeads; ++h)
        sums[h] = L::mul(L::load(out + h * width + e, lanes), L::set(fades[h]));
      for (int j = 0; j < n; ++j) {
        const F32 value = L::load_f16(values + j * width + e, lanes);
        for (int h = 0; h < kHeads; ++h) sums[h] = L::fma(value, L::set(weights[h][j]), sums[h]);
      }
      for (int h = 0; h < kHeads; ++h) L::store(out + h * width + e, sums[h], lanes);
    }
  }

  static void attend(const AttendTask& task) {
    int head = 0;
    for (; task.num_heads - head >= 4; head += 4) attend_heads<4>(task, head);
    switch (task.num_heads - head) {
      case 3: return attend_heads<3>(task, head);
      case 2: return attend_heads<2>(task, head);
      case 1: return attend_heads<1>(task, head);
    }
  }

  // ---- tables: embedding and head ----------------------------------------------------------------

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
          const int n = lanes_left(width / kGroup - g);
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
        const int n = lanes_left(table.inputs - k);
        F32& sum = sums[k / 16 % 2];
        sum = L::fma(L::load(scratch + k, n), L::load(x + k, n), sum);
      }
      out[i] = L::sum(L::add(sums[0], sums[1]));
    }
  }

  static void decode_row(const Tensor& table, int64_t row, float* out) {
    switch (table.dtype) {
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16: return decode_floats(table, row, out);
      case DType::kQ4_0: return decode_quantized<Q4_0>(table, row, out);
      case DType::kQ4_1: return decode_quantized<Q4_1>(table, row, out);
      case DType::kQ5_0: return decode_quantized<Q5_0>(table, row, out);
      case DType::kQ5_1: return decode_quantized<Q5_1>(table, row, out);
      case DType::kQ8_0: return decode_quantized<Q8_0>(table, row, out);
      case DType::kQ4_K: return decode_quantized<Q4_K>(table, row, out);
      case DType::kQ5_K: return decode_quantized<Q5_K>(table, row, out);
      case DType::kQ6_K: return decode_quantized<Q6_K>(table, row, out);
    }
  }

  static void table_dot(const Tensor& table, int64_t row, const Rows& rows, const int32_t* which,
                        int count, float* scratch, float* out) {
    switch (table.dtype) {
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16: return float_table_dot(table, row, rows, which, count, scratch, out);
      case DType::kQ4_0: return quantized_table_dot<Q4_0>(table, row, rows, which, count, scratch, out);
      case DType::kQ4_1: return quantized_table_dot<Q4_1>(table, row, rows, which, count, scratch, out);
      case DType::kQ5_0: return quantized_table_dot<Q5_0>(table, row, rows, which, count, scratch, out);
      case DType::kQ5_1: return quantized_table_dot<Q5_1>(table, row, rows, which, count, scratch, out);
      case DType::kQ8_0: return quantized_table_dot<Q8_0>(table, row, rows, which, count, scratch, out);
      case DType::kQ4_K: return quantized_table_dot<Q4_K>(table, row, rows, which, count, scratch, out);
      case DType::kQ5_K: return quantized_table_dot<Q5_K>(table, row, rows, which, count, scratch, out);
      case DType::kQ6_K: return quantized_table_dot<Q6_K>(table, row, rows, which, count, scratch, out);
    }
  }

  // ---- small things ------------------------------------------------------------------------------

  static int lanes_left(int64_t left) { return left < 16 ? static_cast<int>(left) : 16; }

  // exp by 2^n * polynomial (Cephes' expf); relative error about 2e-7 down to 2^-126, below which 0's
  // neighbour is returned.
  static F32 exp(F32 x) {
    x = L::max(L::min(x, L::set(88.0f)), L::set(-87.0f));
    const F32 n = L::round(L::mul(x, L::set(1.44269504088896341f)));
    F32 r = L::fma(n, L::set(-0.693359375f), x);
    r = L::fma(n, L::set(2.12194440e-4f), r);
    F32 p = L::set(1.9875691500e-4f);
    p = L::fma(p, r, L::set(1.3981999507e-3f));
    p = L::fma(p, r, L::set(8.3334519073e-3f));
    p = L::fma(p, r, L::set(4.1665795894e-2f));
    p = L::fma(p, r, L::set(1.6666665459e-1f));
    p = L::fma(p, r, L::set(5.0000001201e-1f));
    p = L::add(L::fma(p, L::mul(r, r), r), L::set(1.0f));
    return L::times_power_of_2(p, n);
  }
  static float exp_of(float x) {
    float lanes[16];
    L::store(lanes, exp(L::set(x)));
    return lanes[0];
  }

  static constexpr Kernels table(const char* name) {
    return {name, rms_norm, quantize, panel_dot, silu_mul, attend, decode_row, table_dot};
  }
};

}  // namespace f1::cpu
