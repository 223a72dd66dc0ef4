// Products of matrices whose weights are floats.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/cpu/lane_math.h"
#include "backend/cpu/panels.h"

namespace f1::cpu {

template <typename L>
struct FloatKernels {
  using F32 = typename L::F32;

  static F32 load_f32(const std::byte* p) { return L::load(reinterpret_cast<const float*>(p)); }
  static F32 load_f16(const std::byte* p) {
    return L::load_f16(reinterpret_cast<const uint16_t*>(p));
  }
  static F32 load_bf16(const std::byte* p) {
    return L::load_bf16(reinterpret_cast<const uint16_t*>(p));
  }

  // Four sums, of inputs 4k, 4k + 1, ..., hide the latency of one. A weight is read once for all
  // kCount tokens.
  template <F32 (*kLoad)(const std::byte*), int kWidth, int kCount>
  static void dot_of(const PanelMatrix& matrix, int64_t panel, const Rows& rows, int64_t first,
                     float* out) {
    const std::byte* weights = matrix.block(panel, 0);
    const float* x[kCount];
    F32 sums[kCount][4];
    repeat<kCount>([&](auto i) {
      x[i] = rows.row(first + i);
      repeat<4>([&](auto j) { sums[i][j] = L::set(0.0f); });
    });
    const auto add = [&](int64_t k, auto j) {
      const F32 weight = kLoad(weights + k * kPanelRows * kWidth);
      repeat<kCount>([&](auto i) { sums[i][j] = L::fma(weight, L::set(x[i][k]), sums[i][j]); });
    };
    int64_t k = 0;
    for (; k + 4 <= matrix.inputs; k += 4) repeat<4>([&](auto j) { add(k + j, j); });
    repeat<3>([&](auto j) {
      if (k + j < matrix.inputs) add(k + j, j);
    });
    repeat<kCount>([&](auto i) {
      L::store(out + i * kPanelRows,
               L::add(L::add(sums[i][0], sums[i][1]), L::add(sums[i][2], sums[i][3])));
    });
  }

  template <int kCount>
  static void dot(const PanelMatrix& matrix, int64_t panel, const Rows& rows, int64_t first,
                  float* out) {
    switch (matrix.dtype) {
      case DType::kF32:
        return dot_of<load_f32, 4, kCount>(matrix, panel, rows, first, out);
      case DType::kF16:
        return dot_of<load_f16, 2, kCount>(matrix, panel, rows, first, out);
      default:
        return dot_of<load_bf16, 2, kCount>(matrix, panel, rows, first, out);
    }
  }
};

}  // namespace f1::cpu
