// Attention of one token over its pages.
#pragma once

#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/lane_math.h"

namespace f1::cpu {

template <typename L>
struct AttentionKernels {
  using F32 = typename L::F32;
  using Math = LaneMath<L>;

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
      const int n = Math::lanes_left(task.num_positions - begin);
      F32 scores[kHeads];
      page_scores<kHeads>(task.keys + page, query, width, scores);
      float weights[kHeads][16], fades[kHeads];
      for (int h = 0; h < kHeads; ++h) {
        const F32 legal = L::first(n, scores[h], L::set(kMinusInfinity));
        const float largest = L::largest(L::max(legal, L::set(maxima[h])));
        fades[h] = Math::exp_of(maxima[h] - largest);
        const F32 weight = L::first(n, Math::exp(L::sub(legal, L::set(largest))), L::set(0.0f));
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
        L::store(p, L::mul(L::load(p, Math::lanes_left(width - e)), inverse),
                 Math::lanes_left(width - e));
      }
    }
  }

  template <int kHeads>
  static void page_scores(const uint16_t* keys, const float* query, int width,
                          F32 (&scores)[kHeads]) {
    for (int h = 0; h < kHeads; ++h) scores[h] = L::set(0.0f);
    for (int e = 0; e < width; ++e) {
      const F32 key = L::load_f16(keys + e * 16);
      for (int h = 0; h < kHeads; ++h)
        scores[h] = L::fma(key, L::set(query[h * width + e]), scores[h]);
    }
  }

  template <int kHeads>
  static void add_values(const uint16_t* values, int n, int width,
                         const float (&weights)[kHeads][16], const float (&fades)[kHeads],
                         float* out) {
    for (int e = 0; e < width; e += 16) {
      const int lanes = Math::lanes_left(width - e);
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
      case 3:
        return attend_heads<3>(task, head);
      case 2:
        return attend_heads<2>(task, head);
      case 1:
        return attend_heads<1>(task, head);
    }
  }
};

}  // namespace f1::cpu
