// Which thread attends for which tokens, heads and positions.
#include <algorithm>
#include <atomic>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_tensors.h"

namespace f1 {
namespace {

using namespace cpu;

constexpr int kTileTokens = 8;  // that share one reading of their pages

// Consecutive tokens of one sequence, and in how many segments their positions lie.
struct Tile {
  int first, num_tokens, num_segments;
};

std::vector<Tile> tiles_of(const Batch& batch) {
  std::vector<Tile> tiles;
  for (int t = 0; t < batch.num_tokens(); ++t) {
    const int num_segments = batch.positions[t] / kSegment + 1;
    const bool follows = !tiles.empty() && tiles.back().num_tokens < kTileTokens &&
                         batch.sequence_of[t] == batch.sequence_of[t - 1] &&
                         batch.positions[t] == batch.positions[t - 1] + 1;
    if (!follows) tiles.push_back({t, 0, 0});
    ++tiles.back().num_tokens;
    tiles.back().num_segments = num_segments;
  }
  return tiles;
}

int64_t most_tokens_of(const std::vector<Tile>& tiles) {
  int most = 0;
  for (const Tile& tile : tiles) most = std::max(most, tile.num_tokens);
  return most;
}

// Attention as tasks, one for each tile and KV group.
class Attention {
 public:
  Attention(const Kernels& kernels, ThreadPool& pool, const Batch& batch, const CpuKvCache& cache,
            int layer, CpuActivations& activations)
      : kernels_(kernels),
        pool_(pool),
        batch_(batch),
        cache_(cache),
        layer_(layer),
        a_(activations),
        heads_a_group_(a_.config.num_heads / a_.config.num_kv_heads),
        tiles_(tiles_of(batch)),
        partial_size_(most_tokens_of(tiles_) * heads_a_group_ * partial_row(a_.config.head_dim)),
        num_tasks_(std::ssize(tiles_) * a_.config.num_kv_heads) {}

  void run() {
    int64_t most_segments = 0;
    for (const Tile& tile : tiles_)
      most_segments = std::max<int64_t>(most_segments, tile.num_segments);
    const bool few = num_tasks_ < 4 * pool_.num_threads();
    if (few && most_segments > 1 && pool_.num_threads() > 1)
      run_segments(most_segments);
    else
      run_tasks();
  }

 private:
  const Tile& tile_of(int64_t task) const {
    return tiles_[static_cast<size_t>(task / a_.config.num_kv_heads)];
  }

  AttendTask task_at(int64_t task) const {
    const int group = static_cast<int>(task % a_.config.num_kv_heads);
    const int width = a_.config.head_dim;
    const Tile& tile = tile_of(task);
    const int64_t stride = int64_t{a_.config.num_heads} * width;
    const int64_t offset = tile.first * stride + group * heads_a_group_ * width;
    return {.query = a_.query.data() + offset,
            .out = a_.attended.values.data() + offset,
            .token_stride = stride,
            .num_tokens = tile.num_tokens,
            .num_heads = heads_a_group_,
            .head_dim = width,
            .page_ids = batch_.page_ids.data() + batch_.page_begin[batch_.sequence_of[tile.first]],
            .num_positions = batch_.positions[tile.first] + 1,
            .keys = cache_.keys(layer_, group),
            .values = cache_.values(layer_, group),
            .page_stride = cache_.page_stride()};
  }

  // Each task by one thread; the last tiles, which see most, first.
  void run_tasks() {
    float* memory = a_.partials(2 * partial_size_ * pool_.num_threads());
    pool_.run(num_tasks_, 1, [&](int64_t begin, int64_t end, int thread) {
      float* partial = memory + 2 * partial_size_ * thread;
      float* next = partial + partial_size_;
      for (int64_t i = begin; i < end; ++i) {
        const AttendTask task = task_at(num_tasks_ - 1 - i);
        kernels_.attend_segment(task, 0, partial);
        for (int s = 1; s < tile_of(num_tasks_ - 1 - i).num_segments; ++s) {
          kernels_.attend_segment(task, s, next);
          kernels_.join_segment(task, s, partial, next);
        }
        kernels_.finish_attend(task, partial);
      }
    });
  }

  // Each segment by one thread; whoever is done last with a task joins them, in their order.
  void run_segments(int64_t most_segments) {
    float* memory = a_.partials(partial_size_ * most_segments * num_tasks_);
    std::vector<std::atomic<int>> num_done(static_cast<size_t>(num_tasks_));
    pool_.run(most_segments * num_tasks_, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t which = i % num_tasks_;
        const int segment = static_cast<int>(i / num_tasks_);
        const int num_segments = tile_of(which).num_segments;
        if (segment >= num_segments) continue;
        const AttendTask task = task_at(which);
        float* partials = memory + partial_size_ * most_segments * which;
        kernels_.attend_segment(task, segment, partials + partial_size_ * segment);
        if (num_done[static_cast<size_t>(which)].fetch_add(1) + 1 < num_segments) continue;
        for (int s = 1; s < num_segments; ++s)
          kernels_.join_segment(task, s, partials, partials + partial_size_ * s);
        kernels_.finish_attend(task, partials);
      }
    });
  }

  const Kernels& kernels_;
  ThreadPool& pool_;
  const Batch& batch_;
  const CpuKvCache& cache_;
  const int layer_;
  CpuActivations& a_;
  const int heads_a_group_;
  const std::vector<Tile> tiles_;
  const int64_t partial_size_;  // floats of one task's sums over a segment
  const int64_t num_tasks_;
};

}  // namespace

void CpuBackend::attend(int layer, const Batch& batch, const KvCache& cache,
                        Activations& activations) {
  Attention(kernels_, pool_, batch, static_cast<const CpuKvCache&>(cache), layer,
            static_cast<CpuActivations&>(activations))
      .run();
}

}  // namespace f1
