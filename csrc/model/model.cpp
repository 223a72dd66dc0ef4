#include "model/model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/buffer.h"
#include "core/error.h"

namespace f1 {
namespace {

void check_config(const ModelConfig& c) {
  const std::pair<const char*, int> positive[] = {
      {"num_layers", c.num_layers},     {"hidden_size", c.hidden_size},
      {"num_heads", c.num_heads},       {"intermediate_size", c.intermediate_size},
      {"num_kv_heads", c.num_kv_heads}, {"head_dim", c.head_dim},
      {"vocab_size", c.vocab_size},     {"max_positions", c.max_positions},
  };
  for (const auto& [name, value] : positive)
    if (value <= 0 || value > (1 << 24))
      throw InvalidArgument(concat("config: ", name, " is ", value, ", must be 1 to 2^24"));
  if (c.num_heads % c.num_kv_heads != 0)
    throw InvalidArgument(concat("config: num_heads ", c.num_heads,
                                 " is no multiple of num_kv_heads ", c.num_kv_heads));
  if (c.head_dim % 2 != 0 || c.rope_inv_freq.size() != static_cast<size_t>(c.head_dim / 2))
    throw InvalidArgument(concat("config: rope_inv_freq has ", c.rope_inv_freq.size(),
                                 " values, head_dim ", c.head_dim, " needs half as many"));
  if (!(c.norm_eps > 0)) throw InvalidArgument("config: norm_eps must be positive");
}

// Packs named tensors, checking their shapes.
class Loader {
 public:
  Loader(const std::map<std::string, TensorSource>& sources, Backend& backend)
      : sources_(sources), backend_(backend) {}

  bool has(const std::string& name) const { return sources_.contains(name); }

  TensorHandle matrix(const std::string& name, int64_t rows, int64_t inputs) {
    return repacked(name, rows, inputs, TensorRole::kMatrix);
  }
  TensorHandle head(const std::string& name, int64_t rows, int64_t inputs) {
    return repacked(name, rows, inputs, TensorRole::kHead);
  }

  TensorHandle table(const std::string& name, int64_t rows, int64_t inputs) {
    return packed(checked(name, find(name), rows, inputs), TensorRole::kTable);
  }

  TensorHandle vector(const std::string& name, int64_t size) {
    return packed(checked(name, find(name), 1, size), TensorRole::kVector);
  }

  TensorHandle optional_vector(const std::string& name, int64_t size) {
    return has(name) ? vector(name, size) : nullptr;
  }

  size_t packed_bytes() const { return packed_bytes_; }

 private:
  TensorHandle packed(const Tensor& tensor, TensorRole role) {
    TensorHandle handle = backend_.pack(tensor, role);
    packed_bytes_ += handle->num_bytes();
    return handle;
  }

  // The file's own bytes are not read soon again: their memory is given back.
  TensorHandle repacked(const std::string& name, int64_t rows, int64_t inputs, TensorRole role) {
    const TensorSource& source = find(name);
    TensorHandle handle = packed(checked(name, source, rows, inputs), role);
    source.file->release(source.offset, source.num_bytes);
    return handle;
  }

  const TensorSource& find(const std::string& name) const {
    const auto found = sources_.find(name);
    if (found == sources_.end()) throw InvalidArgument(concat("tensor '", name, "' is missing"));
    return found->second;
  }

  static Tensor checked(const std::string& name, const TensorSource& source, int64_t rows,
                        int64_t inputs) {
    const Tensor tensor = source.tensor(name);
    if (tensor.rows != rows || tensor.inputs != inputs)
      throw InvalidArgument(concat(source.file->path(), ": tensor '", name, "' has shape [",
                                   tensor.rows, ", ", tensor.inputs, "], expected [", rows, ", ",
                                   inputs, "]"));
    return tensor;
  }

  const std::map<std::string, TensorSource>& sources_;
  Backend& backend_;
  size_t packed_bytes_ = 0;
};

LayerWeights load_layer(Loader& loader, const ModelConfig& c, int layer) {
  const auto name = [&](const char* part) { return concat("layers.", layer, ".", part); };
  const int64_t width = c.hidden_size, inner = c.intermediate_size;
  const int64_t query_width = int64_t{c.num_heads} * c.head_dim;
  const int64_t key_width = int64_t{c.num_kv_heads} * c.head_dim;
  LayerWeights w;
  w.attn_norm = loader.vector(name("attn_norm.weight"), width);
  w.q = loader.matrix(name("q.weight"), query_width, width);
  w.k = loader.matrix(name("k.weight"), key_width, width);
  w.v = loader.matrix(name("v.weight"), key_width, width);
  w.q_bias = loader.optional_vector(name("q.bias"), query_width);
  w.k_bias = loader.optional_vector(name("k.bias"), key_width);
  w.v_bias = loader.optional_vector(name("v.bias"), key_width);
  w.q_norm = loader.optional_vector(name("q_norm.weight"), c.head_dim);
  w.k_norm = loader.optional_vector(name("k_norm.weight"), c.head_dim);
  w.o = loader.matrix(name("o.weight"), width, query_width);
  w.mlp_norm = loader.vector(name("mlp_norm.weight"), width);
  w.gate = loader.matrix(name("gate.weight"), inner, width);
  w.up = loader.matrix(name("up.weight"), inner, width);
  w.down = loader.matrix(name("down.weight"), width, inner);
  return w;
}

void check_mixes(const Batch& batch, const ModelConfig& config) {
  const size_t num_mixes = batch.mixed_tokens.size();
  F1_CHECK(batch.mix_begin.size() == num_mixes + 1 && batch.mix_begin.front() == 0);
  F1_CHECK(batch.mix_begin.back() == static_cast<int>(batch.mix_ids.size()));
  F1_CHECK(batch.mix_ids.size() == batch.mix_weights.size());
  for (size_t m = 0; m < num_mixes; ++m) {
    const int32_t t = batch.mixed_tokens[m];
    F1_CHECK(t >= 0 && t < batch.num_tokens(), "mixed token ", t);
    F1_CHECK(batch.mix_begin[m] < batch.mix_begin[m + 1], "mix ", m, " is empty");
  }
  for (const int32_t token : batch.mix_ids)
    F1_CHECK(token >= 0 && token < config.vocab_size, "token ", token, " in a mix");
}

// The engine builds batches; a broken one would read memory that is not ours.
void check_batch(const Batch& batch, const ModelConfig& config, const KvCache& cache,
                 const Activations& activations) {
  const size_t num_tokens = batch.token_ids.size();
  F1_CHECK(num_tokens <= static_cast<size_t>(activations.max_tokens()), num_tokens, " tokens");
  F1_CHECK(batch.positions.size() == num_tokens && batch.sequence_of.size() == num_tokens);
  F1_CHECK(!batch.page_begin.empty() && batch.page_begin.front() >= 0);
  F1_CHECK(std::ranges::is_sorted(batch.page_begin));
  F1_CHECK(batch.page_begin.back() <= static_cast<int>(batch.page_ids.size()));
  for (const int32_t page : batch.page_ids) F1_CHECK(page >= 0 && page < cache.num_pages(), page);
  for (size_t t = 0; t < num_tokens; ++t) {
    const int32_t token = batch.token_ids[t], sequence = batch.sequence_of[t];
    F1_CHECK(token >= 0 && token < config.vocab_size, "token ", token);
    F1_CHECK(sequence >= 0 && sequence < batch.num_sequences(), "sequence ", sequence);
    const int num_pages = batch.page_begin[sequence + 1] - batch.page_begin[sequence];
    F1_CHECK(batch.positions[t] >= 0 && batch.positions[t] / kPageSize < num_pages, "position ",
             batch.positions[t], " of sequence ", sequence, " with ", num_pages, " pages");
  }
  F1_CHECK(batch.head_tokens.size() <= static_cast<size_t>(activations.max_tokens()));
  for (const int32_t t : batch.head_tokens)
    F1_CHECK(t >= 0 && t < static_cast<int>(num_tokens), "head token ", t);
  check_mixes(batch, config);
}

}  // namespace

Model::Model(ModelConfig config, const std::map<std::string, TensorSource>& sources,
             std::shared_ptr<Backend> backend)
    : config_(std::move(config)), backend_(std::move(backend)) {
  check_config(config_);
  Loader loader(sources, *backend_);
  const int64_t vocab = config_.vocab_size, width = config_.hidden_size;
  weights_.embed = loader.table("embed.weight", vocab, width);
  const std::string head = loader.has("head.weight") ? "head.weight" : "embed.weight";  // or tied
  weights_.head = loader.head(head, vocab, width);
  for (const std::string& name : {std::string("embed.weight"), head})
    table_files_.push_back(sources.at(name).file);
  weights_.final_norm = loader.vector("final_norm.weight", width);
  for (int layer = 0; layer < config_.num_layers; ++layer)
    weights_.layers.push_back(load_layer(loader, config_, layer));
  packed_bytes_ = loader.packed_bytes();
  trim_heap();  // of what reading the vocabulary and packing took on the side
}

size_t Model::kv_page_bytes() const { return backend_->kv_page_bytes(config_); }

std::unique_ptr<KvCache> Model::make_kv_cache(int num_pages) const {
  return backend_->make_kv_cache(config_, num_pages);
}

std::unique_ptr<Activations> Model::make_activations(int max_tokens) const {
  return backend_->make_activations(config_, max_tokens);
}

std::unique_ptr<Logits> Model::make_logits(int max_rows) const {
  return backend_->make_logits(config_, max_rows);
}

void Model::forward(const Batch& batch, KvCache& cache, Activations& activations) const {
  check_batch(batch, config_, cache, activations);
  for (const auto& file : table_files_) file->check_whole();
  backend_->embed(*weights_.embed, batch, activations);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
    backend_->qkv(weights, layer, batch, cache, activations);
    backend_->attend(layer, batch, cache, activations);
    backend_->attn_out(weights, batch, activations);
    backend_->mlp_up(weights, batch, activations);
    backend_->mlp_down(weights, batch, activations);
  }
  backend_->final_norm(*weights_.final_norm, batch, activations);
}

void Model::head(std::span<const HeadRow> rows, Activations& activations, Logits& logits) const {
  F1_CHECK(rows.size() <= static_cast<size_t>(logits.max_rows()), rows.size(), " rows");
  for (const HeadRow& row : rows) {
    F1_CHECK(row.head_index >= 0 && row.head_index < activations.max_tokens());
    for (const int32_t token : row.listed_tokens)
      F1_CHECK(token >= 0 && token < config_.vocab_size, "listed token ", token);
  }
  backend_->head(*weights_.head, rows, activations, logits);
}

}  // namespace f1
