// A Llama-family decoder: packed weights and the forward pass over them.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/batch.h"
#include "core/model_config.h"
#include "weights/source.h"

namespace f1 {

struct ModelWeights {
  TensorHandle embed, head, final_norm;
  std::vector<LayerWeights> layers;
};

class Model {
 public:
  // `sources` maps canonical names (below) to tensors in mapped files; they are packed for the
  // backend here, in parallel. Throws InvalidArgument naming tensor, expected and found.
  //
  //   embed.weight [V, D]             head.weight [V, D], absent when tied to embed
  //   final_norm.weight [D]
  //   layers.N.attn_norm.weight [D]   layers.N.{q,k,v}.{weight,bias}   layers.N.o.weight
  //                                   layers.N.{q,k}_norm.weight [E]
  //   layers.N.mlp_norm.weight [D]    layers.N.{gate,up,down}.weight
  //
  // Biases and q/k norms are optional. Weights are [outputs, inputs], inputs contiguous.
  Model(ModelConfig config, const std::map<std::string, TensorSource>& sources,
        std::shared_ptr<Backend> backend);

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  Backend& backend() const { return *backend_; }
  size_t packed_bytes() const { return packed_bytes_; }  // weights in memory of their own
  size_t kv_page_bytes() const;                          // one page over all layers, K and V

  // Room for `num_pages` pages of K and V.
  std::unique_ptr<KvCache> make_kv_cache(int num_pages) const;
  // Scratch for steps of at most `max_tokens` tokens.
  std::unique_ptr<Activations> make_activations(int max_tokens) const;
  // Room for the logits of `max_rows` rows.
  std::unique_ptr<Logits> make_logits(int max_rows) const;

  // Runs all layers over the batch, reading and writing its pages. Keeps the S normed final hidden
  // states in `activations` for head().
  void forward(const Batch& batch, KvCache& cache, Activations& activations) const;
  // Logits of the last forward(): rows[i] makes row i, compactly when tokens are listed.
  void head(std::span<const HeadRow> rows, Activations& activations, Logits& logits) const;

 private:
  ModelConfig config_;
  std::shared_ptr<Backend> backend_;
  // Embedding and head may be read in place.
  std::vector<std::shared_ptr<const MappedFile>> table_files_;
  ModelWeights weights_;
  size_t packed_bytes_ = 0;
};

}  // namespace f1
