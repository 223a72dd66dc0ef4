// Kernels that work on one row: norm, quantisation, SiLU.
#pragma once

#include "backend/batch.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/lane_math.h"

namespace f1::cpu {

template <typename L>
struct RowKernels {
  using F32 = typename L::F32;
  using I32 = typename L::I32;
  using Math = LaneMath<L>;

  static void rms_norm(const float* x, const float* weight, int64_t size, float eps, float* out) {
    F32 squares = L::set(0.0f);
    for (int64_t i = 0; i < size; i += 16) {
      const F32 v = L::load(x + i, Math::lanes_left(size - i));
      squares = L::fma(v, v, squares);
    }
    const float mean = L::sum(squares) / static_cast<float>(size);
    const F32 factor = L::set(1.0f / __builtin_sqrtf(mean + eps));
    for (int64_t i = 0; i < size; i += 16) {
      const int n = Math::lanes_left(size - i);
      const F32 scaled = L::mul(L::load(x + i, n), factor);
      L::store(out + i, L::mul(scaled, L::load(weight + i, n)), n);
    }
  }

  struct GroupScale {
    float scale;
    int32_t sum_a, sum_b;  // of the first and the last 16 codes
  };
  // 32 values as s8 codes.
  static GroupScale quantize_group(const float* values, int8_t* codes) {
    const F32 a = L::load(values), b = L::load(values + 16);
    const float largest = L::largest_magnitude(a, b);
    // Below that 127 / largest could be infinite; such a group counts as zeros.
    const F32 inverse = L::set(largest > 1e-30f ? 127.0f / largest : 0.0f);
    const I32 code_a = L::to_i32(L::round(L::mul(a, inverse)));
    const I32 code_b = L::to_i32(L::round(L::mul(b, inverse)));
    L::store_s8(codes, code_a);
    L::store_s8(codes + 16, code_b);
    const auto [sum_a, sum_b] = L::sums_of_32(codes);
    return {largest / 127.0f, sum_a, sum_b};
  }

  static void quantize(const float* values, int64_t count, int slot, TileGroup* groups) {
    for (int64_t g = 0; g < count; ++g) {
      TileGroup& group = groups[g];
      const auto [scale, sum_a, sum_b] = quantize_group(values + g * kGroup, group.codes[slot]);
      group.scales[slot] = scale;
      group.scaled_sums[slot] = scale * static_cast<float>(sum_a + sum_b);
      group.minus_sums[0][slot] = -(sum_a + sum_b);
      group.minus_sums[1][slot] = -sum_a;
      group.minus_sums[2][slot] = -sum_b;
    }
  }

  static void quantize_rows(const Rows& rows, int64_t num_tokens, int64_t first, int64_t count) {
    for (int64_t t = 0; t < num_tokens; ++t)
      quantize(rows.row(t) + first * kGroup, count, static_cast<int>(t % kTile),
               rows.tile(t / kTile) + first);
  }

  // Rotary embedding of one head (Su et al., arXiv 2104.09864), in place.
  static void rotate(const float* cosines, const float* sines, int half, bool interleaved,
                     float* x) {
    if (interleaved) {
      for (int i = 0; i < half; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosines[i] - b * sines[i];
        x[2 * i + 1] = a * sines[i] + b * cosines[i];
      }
      return;
    }
    for (int i = 0; i < half; i += 16) {
      const int n = Math::lanes_left(half - i);
      const F32 a = L::load(x + i, n), b = L::load(x + half + i, n);
      const F32 cosine = L::load(cosines + i, n), sine = L::load(sines + i, n);
      L::store(x + i, L::sub(L::mul(a, cosine), L::mul(b, sine)), n);
      L::store(x + half + i, L::add(L::mul(a, sine), L::mul(b, cosine)), n);
    }
  }

  static void write_slot(const float* key, const float* value, int width, uint16_t* keys,
                         uint16_t* values) {
    for (int e = 0; e < width; e += 16) {
      const int n = Math::lanes_left(width - e);
      uint16_t halves[16];
      L::store_f16(halves, L::load(key + e, n), n);
      for (int j = 0; j < n; ++j) keys[(e + j) * kPageSize] = halves[j];
      L::store_f16(values + e, L::load(value + e, n), n);
    }
  }

  static float dot(const float* a, const float* b, int64_t size) {
    F32 sums[4] = {L::set(0.0f), L::set(0.0f), L::set(0.0f), L::set(0.0f)};
    for (int64_t k = 0; k < size; k += 16) {
      const int n = Math::lanes_left(size - k);
      F32& sum = sums[k / 16 % 4];
      sum = L::fma(L::load(a + k, n), L::load(b + k, n), sum);
    }
    return L::sum(L::add(L::add(sums[0], sums[1]), L::add(sums[2], sums[3])));
  }

  static void silu_mul(const float* gate, const float* up, int64_t num_tokens, int num_rows,
                       float* out, int64_t stride) {
    for (int64_t t = 0; t < num_tokens; ++t, gate += 16, up += 16, out += stride) {
      const F32 g = L::load(gate);
      const F32 sigmoid_inverse = L::add(L::set(1.0f), Math::exp(L::sub(L::set(0.0f), g)));
      L::store(out, L::mul(L::div(g, sigmoid_inverse), L::load(up)), num_rows);
    }
  }
};

}  // namespace f1::cpu
