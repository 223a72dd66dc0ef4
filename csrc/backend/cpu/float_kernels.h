// Products of matrices whose weights are floats.
#pragma once

#include "backend/cpu/kernels.h"
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

  // Four sums, of inputs 4k, 4k + 1, ..., hide the latency of one.
  template <F32 (*kLoad)(const std::byte*), int kWidth, int kCount>
  static void dot_of(const PanelMatrix& matrix, int64_t panel, const Rows& rows, int64_t first,
                     float* out) {
    const std::byte* weights = matrix.block(panel, 0);
    for (int i = 0; i < kCount; ++i) {
      const float* x = rows.row(first + i);
      F32 sums[4] = {L::set(0.0f), L::set(0.0f), L::set(0.0f), L::set(0.0f)};
      for (int64_t k = 0; k < matrix.inputs; ++k)
        sums[k % 4] = L::fma(kLoad(weights + k * kPanelRows * kWidth), L::set(x[k]), sums[k % 4]);
      L::store(out + i * kPanelRows, L::add(L::add(sums[0], sums[1]), L::add(sums[2], sums[3])));
    }
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
