// Attention of some consecutive tokens of one sequence over its pages.
//
// A row is one token's one query head. Rows that share pages are worked on together, so that a page
// is read once for all of them; but what a row gets is defined for it alone:
//
//     positions   0        64       128                 kSegment             2 kSegment
//     segment 0   | block    | block    | ...       | ;  segment 1   | block ...
//
// Within a segment, block by block, an online softmax (Milakov & Gimelshein, arXiv 1805.02867); a
// segment starts anew, and the segments' results are joined in their order. So threads can share
// one row's segments, and no bit depends on who computed which, or on the other rows.
#pragma once

#include <algorithm>

#include "backend/cpu/kernels.h"
#include "backend/cpu/lane_math.h"

namespace f1::cpu {

template <typename L>
struct AttentionKernels {
  using F32 = typename L::F32;
  using Math = LaneMath<L>;

  static constexpr float kMinusInfinity = -1e30f;  // finite: the difference of two is 0, not NaN
  static constexpr int kBlockPages = 4, kBlock = 16 * kBlockPages;  // positions
  // Rows at a time, and vectors of 16 lanes for each: as many sums as half the registers hold.
  static constexpr int kMaxRows = L::kRegisters >= 32 ? 8 : 4;
  template <int kCount>
  static constexpr int kWide = std::clamp(L::kRegisters / 2 / kCount, 1, kBlockPages);

  // A row's result so far, its share of `partial`: with w = e^(score - maximum), the sums by lane of
  // w and the sums of w V, of no meaning beyond head_dim.
  struct State {
    float* memory;

    float& maximum() const { return memory[0]; }
    float* sums() const { return memory + 16; }
    float* values() const { return memory + 32; }
  };
  static State state_of(const AttendTask& task, float* partial, int row) {
    return {partial + row * partial_row(task.head_dim)};
  }
  // Where the row's query and its output stand, from the task's.
  static int64_t offset_of(const AttendTask& task, int row) {
    return row / task.num_heads * task.token_stride + row % task.num_heads * task.head_dim;
  }

  // scores[r][16 p + i] = query[r] . key of page p's position i. What is read next is asked for
  // meanwhile: streams as short as pages are over before the processor has seen them. (In a plain
  // loop: GCC 12 drops calls of lambdas that do nothing but prefetch.)
  template <int kCount, int kPages>
  [[gnu::noinline]] static void score(const uint16_t* const* keys, const float* const* query,
                                      int width, float* scores) {
    F32 sums[kCount][kPages];
    repeat<kCount>([&](auto r) { repeat<kPages>([&](auto p) { sums[r][p] = L::set(0.0f); }); });
    for (int e = 0; e < width; ++e) {
      F32 key[kPages];
      repeat<kPages>([&](auto p) { key[p] = L::load_f16(keys[p] + e * 16); });
      for (int p = 0; p < kPages; ++p) __builtin_prefetch(keys[p] + (width + e) * 16);  // values
      repeat<kCount>([&](auto r) {
        const F32 one = L::set(query[r][e]);
        repeat<kPages>([&](auto p) { sums[r][p] = L::fma(key[p], one, sums[r][p]); });
      });
    }
    repeat<kCount>([&](auto r) {
      repeat<kPages>([&](auto p) { L::store(scores + r * kBlock + 16 * p, sums[r][p]); });
    });
  }

  // Scores of the block's first n positions become weights; fades: by what the older sums shrink.
  template <int kCount>
  [[gnu::noinline]] static void weigh(const State* states, int n, float* scores, float* fades) {
    alignas(64) float shrinking[16] = {};
    for (int r = 0; r < kCount; ++r) {
      const float before = states[r].maximum();
      F32 largest = L::set(before);
      for (int i = 0; i < n; i += 16) {
        float* score = scores + r * kBlock + i;
        const F32 legal =
            L::first(Math::lanes_left(n - i), L::load(score), L::set(kMinusInfinity));
        L::store(score, legal);
        largest = L::max(legal, largest);
      }
      states[r].maximum() = L::largest(largest);
      shrinking[r] = before - states[r].maximum();
    }
    L::store(shrinking, Math::exp(L::load(shrinking)));
    for (int r = 0; r < kCount; ++r) {
      fades[r] = shrinking[r];
      const F32 largest = L::set(states[r].maximum());
      F32 sums = L::mul(L::load(states[r].sums()), L::set(fades[r]));
      for (int i = 0; i < n; i += 16) {
        float* score = scores + r * kBlock + i;
        const F32 weight = Math::exp(L::sub(L::load(score), largest));
        const F32 legal = L::first(Math::lanes_left(n - i), weight, L::set(0.0f));
        L::store(score, legal);
        sums = L::add(sums, legal);
      }
      L::store(states[r].sums(), sums);
    }
  }

  // Adds the block's first n values, at `e` and on: kVectors of 16, or one of `lanes`.
  template <int kCount, int kVectors, typename Load>
  [[gnu::noinline]] static void add_values(const uint16_t* const* values, int n, int width, int e,
                                           Load load, const uint16_t* const* next,
                                           const float* weights, const float* fades,
                                           const State* states) {
    F32 sums[kCount][kVectors];
    repeat<kCount>([&](auto r) {
      const F32 fade = L::set(fades[r]);
      repeat<kVectors>([&](auto v) {
        sums[r][v] = L::mul(L::load(states[r].values() + e + 16 * v), fade);
      });
    });
    for (int begin = 0; begin < n; begin += 16) {
      const uint16_t* value = values[begin / 16] + e;
      const uint16_t* ahead = next[begin / 16] + e;
      const int end = std::min(n, begin + 16);
      for (int i = begin; i < end; ++i, value += width, ahead += width) {
        F32 wide[kVectors];
        repeat<kVectors>([&](auto v) { wide[v] = load(value + 16 * v); });
        for (int v = 0; v < kVectors; v += 2) __builtin_prefetch(ahead + 16 * v);
        repeat<kCount>([&](auto r) {
          const F32 weight = L::set(weights[r * kBlock + i]);
          repeat<kVectors>([&](auto v) { sums[r][v] = L::fma(wide[v], weight, sums[r][v]); });
        });
      }
    }
    repeat<kCount>([&](auto r) {
      repeat<kVectors>([&](auto v) { L::store(states[r].values() + e + 16 * v, sums[r][v]); });
    });
  }

  // One block, of whose positions each of kCount rows sees the first n. page_ids: its pages, and
  // those that follow, pages_left in all.
  template <int kCount>
  static void add_block(const AttendTask& task, const int32_t* page_ids, int pages_left, int n,
                        int first_row, float* partial) {
    const int width = task.head_dim, num_pages = std::min(pages_left, kBlockPages);
    const uint16_t *keys[kBlockPages], *values[kBlockPages], *next[kBlockPages];
    for (int p = 0; p < num_pages; ++p) {
      keys[p] = task.keys + page_ids[p] * task.page_stride;
      values[p] = task.values + page_ids[p] * task.page_stride;
      next[p] = task.keys + page_ids[p + kBlockPages < pages_left ? p + kBlockPages : p] *
                                task.page_stride;
    }
    const float* query[kCount];
    State states[kCount];
    for (int r = 0; r < kCount; ++r) {
      query[r] = task.query + offset_of(task, first_row + r);
      states[r] = state_of(task, partial, first_row + r);
    }
    alignas(64) float weights[kCount * kBlock];
    constexpr int kVectors = kWide<kCount>;
    int p = 0;
    for (; p + kVectors <= num_pages; p += kVectors)
      score<kCount, kVectors>(keys + p, query, width, weights + 16 * p);
    for (; p < num_pages; ++p) score<kCount, 1>(keys + p, query, width, weights + 16 * p);
    float fades[kCount];
    weigh<kCount>(states, n, weights, fades);
    int e = 0;
    const auto load = [](const uint16_t* p) { return L::load_f16(p); };
    for (; e + 16 * kVectors <= width; e += 16 * kVectors)
      add_values<kCount, kVectors>(values, n, width, e, load, next, weights, fades, states);
    for (; e < width; e += 16) {
      const int lanes = Math::lanes_left(width - e);
      const auto load_some = [=](const uint16_t* p) { return L::load_f16(p, lanes); };
      add_values<kCount, 1>(values, n, width, e, load_some, next, weights, fades, states);
    }
  }

  template <int kCount>
  static void add_block_of(int count, const AttendTask& task, const int32_t* page_ids,
                           int pages_left, int n, int first_row, float* partial) {
    if (count == kCount)
      return add_block<kCount>(task, page_ids, pages_left, n, first_row, partial);
    if constexpr (kCount > 1)
      add_block_of<kCount - 1>(count, task, page_ids, pages_left, n, first_row, partial);
  }

  static void attend_segment(const AttendTask& task, int segment, float* partial) {
    const int num_rows = task.num_tokens * task.num_heads;
    for (int row = 0; row < num_rows; ++row) {
      const State state = state_of(task, partial, row);
      state.maximum() = kMinusInfinity;
      L::store(state.sums(), L::set(0.0f));
      for (int e = 0; e < task.head_dim; e += 16) L::store(state.values() + e, L::set(0.0f));
    }
    const int last = task.num_positions + task.num_tokens - 1;  // how many the last token sees
    const int end = std::min(last, (segment + 1) * kSegment);
    for (int begin = segment * kSegment; begin < end; begin += kBlock) {
      const int32_t* page_ids = task.page_ids + begin / 16;
      const int pages_left = (last - begin + 15) / 16;
      // While all tokens see the whole block, rows are taken as they come; then token by token.
      const int step = begin + kBlock <= task.num_positions ? num_rows : task.num_heads;
      for (int first = 0; first < num_rows; first += step) {
        const int seen = task.num_positions + first / task.num_heads - begin;
        if (seen <= 0) continue;
        for (int row = first; row < first + step; row += kMaxRows)
          add_block_of<kMaxRows>(std::min(kMaxRows, first + step - row), task, page_ids, pages_left,
                                 std::min(seen, kBlock), row, partial);
      }
    }
  }

  static void join_segment(const AttendTask& task, int segment, float* partial, float* next) {
    for (int row = 0; row < task.num_tokens * task.num_heads; ++row) {
      if (task.num_positions + row / task.num_heads <= segment * kSegment) continue;  // sees none
      const State a = state_of(task, partial, row), b = state_of(task, next, row);
      const float maximum = std::max(a.maximum(), b.maximum());
      const F32 fade_a = L::set(Math::exp_of(a.maximum() - maximum));
      const F32 fade_b = L::set(Math::exp_of(b.maximum() - maximum));
      const auto join = [&](float* sum, const float* more) {
        L::store(sum, L::fma(L::load(more), fade_b, L::mul(L::load(sum), fade_a)));
      };
      join(a.sums(), b.sums());
      for (int e = 0; e < task.head_dim; e += 16) join(a.values() + e, b.values() + e);
      a.maximum() = maximum;
    }
  }

  static void finish_attend(const AttendTask& task, float* partial) {
    for (int row = 0; row < task.num_tokens * task.num_heads; ++row) {
      const State state = state_of(task, partial, row);
      float* out = task.out + offset_of(task, row);
      const F32 inverse = L::set(1.0f / L::sum(L::load(state.sums())));
      for (int e = 0; e < task.head_dim; e += 16)
        L::store(out + e, L::mul(L::load(state.values() + e), inverse),
                 Math::lanes_left(task.head_dim - e));
    }
  }
};

}  // namespace f1::cpu
