// The CUDA backend at the end of a pipe: a test says line by line what to run and gets a line back,
// `ok` and numbers or `error` and why. Lists are their length and then their numbers; floats travel as
// their bits. One process a test, so that nothing outlives a fault. tests/cuda_probe.py is the other
// end.
#include "probe.h"

#include <bit>
#include <iostream>
#include <map>
#include <memory>
#include <utility>

#include "backend/cuda/cuda_backend.h"
#include "core/error.h"
#include "model/model.h"
#include "weights/source.h"

namespace f1 {
namespace {

template <typename T = int64_t>
T number() {
  T value;
  if (!(std::cin >> value)) throw InvalidArgument("the pipe ends within a command");
  return value;
}

float real() { return std::bit_cast<float>(number<uint32_t>()); }
std::string word() { return number<std::string>(); }

template <typename T>
std::vector<T> list() {
  std::vector<T> values(number<size_t>());
  for (T& value : values) value = static_cast<T>(number());
  return values;
}

std::vector<float> reals() {
  std::vector<float> values(number<size_t>());
  for (float& value : values) value = real();
  return values;
}

Activations::Part part() {
  const std::string name = word();
  const char* const names[] = {"hidden", "query", "attended", "mlp", "final"};
  for (size_t i = 0; i < std::size(names); ++i)
    if (name == names[i]) return static_cast<Activations::Part>(i);
  throw InvalidArgument("no part '" + name + "'");
}

class Probe {
 public:
  // What the last command answers.
  std::string answer() { return std::exchange(answer_, {}); }

  bool run(const std::string& command) {
    const auto found = commands_.find(command);
    if (found == commands_.end()) return run_elsewhere(command, std::cin);
    (this->*found->second)();
    return true;
  }

 private:
  void say(int64_t value) { answer_ += ' ' + std::to_string(value); }
  void say(const std::vector<float>& values) {
    for (const float value : values) say(std::bit_cast<uint32_t>(value));
  }

  void config() {
    ModelConfig& c = config_;
    for (int* field : {&c.num_layers, &c.hidden_size, &c.intermediate_size, &c.num_heads,
                       &c.num_kv_heads, &c.head_dim, &c.vocab_size, &c.max_positions})
      *field = number<int>();
    c.norm_eps = real();
    c.rope_interleaved = number() != 0;
    c.rope_inv_freq = reals();
  }

  void tensor() {
    const std::string name = word(), path = word();
    if (!files_.contains(path)) files_[path] = std::make_shared<MappedFile>(path);
    TensorSource& source = sources_[name];
    source.file = files_[path];
    source.offset = number<uint64_t>();
    source.num_bytes = number<uint64_t>();
    source.dtype = dtype_from_name(word());
    source.shape = list<int64_t>();
  }

  void model() {
    const int num_pages = number<int>(), max_tokens = number<int>();
    model_ = std::make_unique<Model>(config_, sources_, make_cuda_backend());
    cache_ = model_->make_kv_cache(num_pages);
    activations_ = model_->make_activations(max_tokens);
    logits_ = model_->make_logits(max_tokens);
    say(static_cast<int64_t>(model_->kv_page_bytes()));
    say(static_cast<int64_t>(model_->packed_bytes()));
  }

  void batch() {
    for (std::vector<int32_t>* part : {&batch_.token_ids, &batch_.positions, &batch_.sequence_of,
                                       &batch_.page_ids, &batch_.page_begin, &batch_.head_tokens})
      *part = list<int32_t>();
    batch_.mixed_tokens = {};
    batch_.mix_begin = {0};
    batch_.mix_ids = {};
    batch_.mix_weights = {};
  }

  // Of the batch just set.
  void mixes() {
    for (std::vector<int32_t>* part : {&batch_.mixed_tokens, &batch_.mix_begin, &batch_.mix_ids})
      *part = list<int32_t>();
    batch_.mix_weights = reals();
  }

  void forward() { model_->forward(batch_, *cache_, *activations_); }

  void stage() {
    const std::string name = word();
    const int layer = number<int>();
    Backend& backend = model_->backend();
    const ModelWeights& all = model_->weights();
    const LayerWeights& weights = all.layers.at(static_cast<size_t>(layer));
    if (name == "embed") return backend.embed(*all.embed, batch_, *activations_);
    if (name == "qkv") return backend.qkv(weights, layer, batch_, *cache_, *activations_);
    if (name == "attend") return backend.attend(layer, batch_, *cache_, *activations_);
    if (name == "attn_out") return backend.attn_out(weights, batch_, *activations_);
    if (name == "mlp_up") return backend.mlp_up(weights, batch_, *activations_);
    if (name == "mlp_down") return backend.mlp_down(weights, batch_, *activations_);
    if (name == "final_norm") return backend.final_norm(*all.final_norm, batch_, *activations_);
    throw InvalidArgument("no stage '" + name + "'");
  }

  void write() {
    const Activations::Part to = part();
    activations_->write(to, reals());
  }

  void read() {
    const Activations::Part from = part();
    std::vector<float> values(number<size_t>());
    activations_->read(from, values);
    say(values);
  }

  void head() {
    std::vector<int> indices(number<size_t>());
    std::vector<std::vector<int32_t>> listed;
    for (int& index : indices) {
      index = number<int>();
      listed.push_back(list<int32_t>());
    }
    std::vector<HeadRow> rows;
    for (size_t i = 0; i < indices.size(); ++i) rows.push_back({indices[i], listed[i]});
    model_->head(rows, *activations_, *logits_);
  }

  void read_logits() {
    const int row = number<int>();
    std::vector<float> values(number<size_t>());
    logits_->read(row, values);
    say(values);
  }

  void write_logits() {
    const int row = number<int>();
    logits_->write(row, reals());
  }

  void sample();

  void copy_page() {
    const int from = number<int>(), to = number<int>();
    cache_->copy_page(from, to);
  }

  void read_page() {
    std::vector<uint8_t> bytes(model_->kv_page_bytes());
    cache_->read_page(number<int>(), std::as_writable_bytes(std::span(bytes)));
    for (const uint8_t byte : bytes) say(byte);
  }

  void write_page() {
    const int page = number<int>();
    const std::vector<uint8_t> bytes = list<uint8_t>();
    cache_->write_page(page, std::as_bytes(std::span(bytes)));
  }

  const std::map<std::string, void (Probe::*)()> commands_ = {
      {"config", &Probe::config},
      {"tensor", &Probe::tensor},
      {"model", &Probe::model},
      {"batch", &Probe::batch},
      {"mixes", &Probe::mixes},
      {"forward", &Probe::forward},
      {"stage", &Probe::stage},
      {"write", &Probe::write},
      {"read", &Probe::read},
      {"head", &Probe::head},
      {"read_logits", &Probe::read_logits},
      {"write_logits", &Probe::write_logits},
      {"sample", &Probe::sample},
      {"copy_page", &Probe::copy_page},
      {"read_page", &Probe::read_page},
      {"write_page", &Probe::write_page},
  };
  std::string answer_;
  ModelConfig config_;
  std::map<std::string, std::shared_ptr<const MappedFile>> files_;
  std::map<std::string, TensorSource> sources_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Activations> activations_;
  std::unique_ptr<Logits> logits_;
  Batch batch_;
};

void Probe::sample() {
  struct Owned {
    std::vector<int32_t> listed, mask;
    SamplingParams params;
  };
  std::vector<Owned> owned(number<size_t>());
  std::vector<SampleRow> rows;
  for (Owned& row : owned) {
    const int at = number<int>(), num_logits = number<int>();
    row.listed = list<int32_t>();
    row.mask = list<int32_t>();
    row.params.temperature = real();
    row.params.top_k = number<int>();
    row.params.top_p = real();
    row.params.min_p = real();
    row.params.seed = number<uint64_t>();
    row.params.num_logprobs = number<int>();
    const int choice = number<int>(), position = number<int>();
    rows.push_back({.row = at,
                    .num_logits = num_logits,
                    .listed_tokens = row.listed,
                    .mask = row.mask.empty() ? nullptr : row.mask.data(),
                    .params = &row.params,
                    .seen = {},
                    .choice = choice,
                    .position = position});
  }
  std::vector<SampledToken> tokens(rows.size());
  model_->backend().sample(*logits_, rows, tokens);
  for (const SampledToken& token : tokens) {
    say(token.token_id);
    say(std::vector<float>{token.logprob});
  }
}

}  // namespace
}  // namespace f1

int main() {
  f1::Probe probe;
  for (std::string command; std::cin >> command;) {
    try {
      const bool is_known = probe.run(command);
      const std::string numbers = probe.answer();
      std::cout << (is_known ? "ok" + numbers : "error no command " + command) << std::endl;
    } catch (const std::exception& error) {
      std::cout << "error " << error.what() << std::endl;
    }
  }
}
