// The engine under everything that may happen to it, for sanitizers.
//
//   storm FOLDER SEEDS         one thread: any calls in any order, memory short, prefixes saved
//   storm FOLDER SEEDS crowd   several: some ask, abort and look while one steps, and all the while
//                              the model is unloaded and loaded again
//
// The last line says how often the rare paths were taken. Ends with 1 where one never was.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "core/error.h"
#include "engine/engine.h"

namespace {

using namespace f1;
using Random = std::mt19937;

constexpr int kVocab = 333, kWords = (kVocab + 31) / 32;

int below(Random& random, int end) { return static_cast<int>(random() % static_cast<unsigned>(end)); }

std::map<std::string, TensorSource> write_tensors(const std::string& path, ModelConfig& config) {
  config = {.num_layers = 2, .hidden_size = 64, .intermediate_size = 96, .num_heads = 4,
            .num_kv_heads = 2, .head_dim = 16, .vocab_size = kVocab, .max_positions = 256,
            .norm_eps = 1e-5f, .rope_inv_freq = {}};
  for (int i = 0; i < 8; ++i) config.rope_inv_freq.push_back(1.0f / static_cast<float>(1 + i));
  std::map<std::string, std::vector<int64_t>> shapes = {
      {"embed.weight", {kVocab, 64}}, {"head.weight", {kVocab, 64}}, {"final_norm.weight", {64}}};
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    for (const char* norm : {"attn_norm", "mlp_norm"}) shapes[layer + norm + ".weight"] = {64};
    shapes[layer + "q.weight"] = shapes[layer + "o.weight"] = {64, 64};
    shapes[layer + "k.weight"] = shapes[layer + "v.weight"] = {32, 64};
    shapes[layer + "gate.weight"] = shapes[layer + "up.weight"] = {96, 64};
    shapes[layer + "down.weight"] = {64, 96};
  }
  Random random(5);
  std::normal_distribution<float> normal(0, 0.25f);
  std::map<std::string, TensorSource> sources;
  std::ofstream file(path, std::ios::binary);
  for (const auto& [name, shape] : shapes) {
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = normal(random);
    sources[name] = {.file = nullptr,
                     .offset = static_cast<uint64_t>(file.tellp()),
                     .num_bytes = values.size() * sizeof(float),
                     .dtype = DType::kF32,
                     .shape = shape};
    file.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof(float)));
  }
  file.close();
  const auto mapped = std::make_shared<const MappedFile>(path);
  for (auto& [name, source] : sources) source.file = mapped;
  return sources;
}

std::shared_ptr<const Model> load(const std::string& path, int num_threads) {
  ModelConfig config;
  const auto sources = write_tensors(path, config);
  return std::make_shared<const Model>(config, sources,
                                       make_backend({.num_threads = num_threads}));
}

std::vector<int32_t> tokens(Random& random, int size) {
  const int kind = below(random, 3);  // prompts that begin alike share pages
  std::vector<int32_t> ids;
  for (int i = 0; i < size; ++i) ids.push_back((kind * 31 + i * 7) % kVocab);
  if (size > 1) ids.back() = below(random, kVocab);
  return ids;
}

Request request(Random& random) {
  Request made;
  made.token_ids = tokens(random, 1 + below(random, 60));
  made.max_tokens = 1 + below(random, 40);
  made.stop_token_ids = {below(random, kVocab)};
  made.choice = below(random, 3);
  made.sampling.seed = random();
  if (below(random, 2)) made.sampling.temperature = 0.9f;
  if (below(random, 4) == 0) made.sampling.top_k = 5;
  if (below(random, 4) == 0) made.sampling.top_p = 0.8f;
  if (below(random, 4) == 0) made.sampling.repetition_penalty = 1.2f;
  if (below(random, 4) == 0) made.sampling.num_logprobs = 3;
  made.sampling.masked_mass = made.sampling.num_logprobs >= 0 && below(random, 2);
  if (below(random, 4) == 0) {
    made.soft = {.num_steps = 3, .position = 1 + below(random, static_cast<int>(made.token_ids.size()))};
  }
  return made;
}

struct Counts {
  std::atomic<int64_t> steps = 0, forks = 0, accepted = 0, preemptions = 0, readings = 0,
                       restored = 0, refused = 0, reloads = 0;
};

class Storm {
 public:
  Storm(std::shared_ptr<const Model> model, unsigned seed, Counts& counts)
      : engine_(std::move(model), {.num_pages = 16, .max_batch_tokens = 32, .max_sequences = 6}),
        random_(seed),
        counts_(counts) {}

  ~Storm() {
    counts_.preemptions += engine_.stats().num_preemptions;
    counts_.accepted += engine_.stats().num_accepted_tokens;
  }

  // One call, whatever it may be; those that are wrong at the time are refused.
  void call() {
    try {
      switch (below(random_, 16)) {
        case 0: case 1: case 2: ids_.push_back(engine_.submit(request(random_))); break;
        case 3: return fork();
        case 4: return engine_.append(any(), tokens(random_, 1 + below(random_, 3)));
        case 5: return engine_.pause(any());
        case 6: return engine_.resume(any());
        case 7: return engine_.abort(any());
        case 8: return keep();
        default: return step();
      }
    } catch (const InvalidArgument&) {
      ++counts_.refused;
    }
  }

  void end() {
    for (const int64_t id : ids_) {
      try {
        engine_.resume(id);
      } catch (const InvalidArgument&) {
        ++counts_.refused;  // it has ended
      }
    }
    while (engine_.has_work()) step();
    const EngineStats stats = engine_.stats();
    F1_CHECK(stats.num_running == 0 && stats.num_waiting == 0);
  }

  void look() { engine_.stats(); }

 private:
  int64_t any() {  // one of the latest: others have ended
    const size_t num_latest = std::min<size_t>(ids_.size(), 6);
    return ids_.empty() ? 0 : ids_[ids_.size() - 1 - random_() % num_latest];
  }

  void fork() {
    try {
      if (const auto child = engine_.fork(any(), 1)) {
        ids_.push_back(*child);
        ++counts_.forks;
      }
    } catch (const InvalidArgument&) {
      ++counts_.refused;
    }
  }

  void keep() {
    const std::vector<int32_t> ids = tokens(random_, 48);
    engine_.hold_prefix(ids, 0.001);
    const size_t page_bytes = engine_.model().kv_page_bytes();
    const auto [num_pages, data] = engine_.save_prefix(ids);
    const auto read = [&, saved = data.get()](int index, std::span<std::byte> out) {
      std::copy_n(saved + static_cast<size_t>(index) * page_bytes, page_bytes, out.begin());
    };
    const std::span<const int32_t> kept(ids.data(), static_cast<size_t>(num_pages) * kPageSize);
    counts_.restored += engine_.restore_prefix(kept, read);
  }

  void step() {
    ++counts_.steps;
    if (!ids_.empty() && below(random_, 2)) {
      try {
        engine_.draft(any(), below(random_, 2) ? std::vector<int32_t>{5, 5} : tokens(random_, 2));
      } catch (const InvalidArgument&) {
        ++counts_.refused;
      }
    }
    const std::vector<int64_t> waiting = engine_.begin_step();
    engine_.check();
    if (!waiting.empty() && below(random_, 4) == 0) fork();  // between the two halves
    std::vector<std::vector<int32_t>> rows;
    rows.reserve(waiting.size());
    const std::vector<int32_t> watched = {1, 5, 77, kVocab - 1};
    TokenMasks masks;
    Watches watches;
    for (const int64_t id : waiting) {
      if (below(random_, 3)) {
        const int kind = below(random_, 3), num_rows = 1 + below(random_, 4);
        rows.emplace_back(static_cast<size_t>(kWords * num_rows));
        for (int32_t& word : rows.back()) word = kind == 0 ? -1 : static_cast<int32_t>(random_());
        for (int i = 0; i < num_rows * kWords && kind == 2; ++i) {
          rows.back()[static_cast<size_t>(i)] = i % kWords == 0 ? 1 << 5 : 0;  // what is drafted
        }
        masks[id] = {rows.back().data(), num_rows};
      }
      if (below(random_, 2)) watches[id] = {watched, below(random_, 2) == 0};
    }
    for (const StepOutput& output : engine_.finish_step(masks, watches)) {
      counts_.readings += output.reading.has_value();
    }
    engine_.check();
  }

  Engine engine_;
  Random random_;
  Counts& counts_;
  std::vector<int64_t> ids_;
};

// As the bindings share an engine: calls wait for each other; who holds it keeps it alive.
struct Shared {
  Shared(std::shared_ptr<const Model> model, unsigned seed, Counts& counts)
      : storm(std::move(model), seed, counts) {}
  std::mutex mutex;
  Storm storm;
};

void crowd(const std::string& folder, int num_reloads, Counts& counts) {
  std::mutex mutex;
  auto current = std::make_shared<Shared>(load(folder + "/crowd.bin", 3), 1, counts);
  std::atomic<bool> over = false;
  const auto visit = [&](auto what) {
    while (!over) {
      std::shared_ptr<Shared> shared;
      {
        const std::lock_guard lock(mutex);
        shared = current;
      }
      const std::lock_guard lock(shared->mutex);
      what(shared->storm);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(visit, [](Storm& storm) { storm.call(); });
  threads.emplace_back(visit, [](Storm& storm) { storm.look(); });
  for (int i = 0; i < num_reloads; ++i) {
    // The old one ends with whoever is the last to let it go.
    const std::string path = folder + "/crowd" + std::to_string(i) + ".bin";
    auto next = std::make_shared<Shared>(load(path, 3), static_cast<unsigned>(i), counts);
    const auto before = counts.steps.load();
    while (counts.steps < before + 200) std::this_thread::yield();
    const std::lock_guard lock(mutex);
    current = std::move(next);
    ++counts.reloads;
  }
  over = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string folder = argv[1];
  const int num_seeds = std::stoi(argv[2]);
  Counts counts;
  if (argc > 3) {
    crowd(folder, num_seeds, counts);
  } else {
    const auto model = load(folder + "/storm.bin", 2);
    for (int seed = 0; seed < num_seeds; ++seed) {
      Storm storm(model, static_cast<unsigned>(seed), counts);
      for (int i = 0; i < 300; ++i) storm.call();
      storm.end();
    }
  }
  std::printf("%ld steps, %ld forks, %ld accepted, %ld preemptions, %ld readings, %ld restored, "
              "%ld refused, %ld reloads\n",
              counts.steps.load(), counts.forks.load(), counts.accepted.load(),
              counts.preemptions.load(), counts.readings.load(), counts.restored.load(),
              counts.refused.load(), counts.reloads.load());
  if (argc > 3) return counts.steps && counts.readings && counts.restored && counts.reloads ? 0 : 1;
  return counts.forks && counts.accepted && counts.preemptions && counts.readings &&
                 counts.restored && counts.refused
             ? 0
             : 1;
}
