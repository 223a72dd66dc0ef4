// The whole contract with a device: pack weights once, then run fused stages over a batch.
//
// Shapes use one legend: T tokens of the step, S tokens whose logits are wanted, D width, H query
// heads, G key/value heads, E head width, V vocabulary. All arithmetic is row by row: what a token
// gets does not depend on the rest of the batch, on how a prompt was cut or on the number of
// threads.
//
// A device may have memory and a clock of its own. Stages may return before they are done, and run
// one after another; host data given to a call has been read when it returns. sample(), every
// read...() and pack() wait. No pointer of one side is used on the other.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/batch.h"
#include "backend/sampling.h"
#include "core/error.h"
#include "core/model_config.h"
#include "core/tensor.h"

namespace f1 {

// A tensor in the device's own form.
class DeviceTensor {
 public:
  virtual ~DeviceTensor() = default;
  virtual size_t num_bytes() const = 0;  // in memory of its own; 0 when it is read in place
};
using TensorHandle = std::unique_ptr<DeviceTensor>;  // null: the model has no such tensor

// How a tensor will be read, which decides its form.
enum class TensorRole {
  kMatrix,  // a layer's matrix: repacked, the source is not needed afterwards
  kTable,   // the embedding: single rows are read, in place where the device can
  kHead,    // the output matrix: all rows stream by, or listed ones are read
  kVector,  // norm weights and biases: f32
};

struct LayerWeights {
  TensorHandle attn_norm, q, k, v, q_bias, k_bias, v_bias, q_norm, k_norm, o;
  TensorHandle mlp_norm, gate, up, down;
};

// Pages of K and V of all layers. Page p of a layer holds kPageSize positions of every KV head.
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual int num_pages() const = 0;
  // A page of all layers at once. As bytes, Backend::kv_page_bytes() of them, it can be written to
  // any cache of the same model, weights and backend name.
  virtual void copy_page(int from, int to) = 0;
  virtual void read_page(int page, std::span<std::byte> out) const = 0;
  virtual void write_page(int page, std::span<const std::byte> bytes) = 0;
};

// What flows between the stages of one step, for at most max_tokens tokens.
class Activations {
 public:
  // Those that can be read and set from outside, row by row (for tests).
  enum class Part {
    kHidden,    // [T, D] the residual stream
    kQuery,     // [T, H * E] scaled by 1 / sqrt(E)
    kAttended,  // [T, H * E]
    kMlp,       // [T, intermediate]
    kFinal,     // [S, D] normed hidden states for head()
  };
  virtual ~Activations() = default;
  virtual int max_tokens() const = 0;
  virtual void read(Part part, std::span<float> out) const = 0;
  virtual void write(Part part, std::span<const float> values) = 0;
};

// Rows of logits on their way from head() to sample(), [max_rows, V].
class Logits {
 public:
  virtual ~Logits() = default;
  virtual int max_rows() const = 0;
  // A row's first logits.
  virtual void read(int row, std::span<float> out) const = 0;
  virtual void write(int row, std::span<const float> values) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu scalar", "cpu avx2"

  // kTable and kHead may keep reading tensor.data, so the caller keeps it alive. What is packed
  // must not outlive the backend. Not for several threads at once.
  virtual TensorHandle pack(const Tensor& tensor, TensorRole role) = 0;
  // Saves what was packed for BackendOptions::packed_path. Throws DeviceError where it cannot be
  // written, or where this backend keeps no packed weights in files.
  virtual void save_packed(const std::string& path) {
    throw DeviceError(concat(path, ": ", name(), " keeps no packed weights in files"));
  }
  virtual size_t kv_page_bytes(const ModelConfig& config) const = 0;
  virtual std::unique_ptr<KvCache> make_kv_cache(const ModelConfig& config, int num_pages) = 0;
  virtual std::unique_ptr<Activations> make_activations(const ModelConfig& config,
                                                        int max_tokens) = 0;
  virtual std::unique_ptr<Logits> make_logits(const ModelConfig& config, int max_rows) = 0;

  // hidden = rows of the table, or the batch's mixes of them. First of all stages: also prepares
  // what the others share (the batch's tables, rotation angles).
  virtual void embed(const DeviceTensor& table, const Batch& batch, Activations& activations) = 0;
  // query, K, V = rope(qk_norm(norm(hidden) W + b)); K and V go to the batch's pages of `layer`.
  virtual void qkv(const LayerWeights& weights, int layer, const Batch& batch, KvCache& cache,
                   Activations& activations) = 0;
  // attended = softmax(query K) V over positions 0..own of each token's sequence.
  virtual void attend(int layer, const Batch& batch, const KvCache& cache,
                      Activations& activations) = 0;
  // hidden += attended W_o
  virtual void attn_out(const LayerWeights& weights, const Batch& batch,
                        Activations& activations) = 0;
  // mlp = silu(norm(hidden) W_gate) * (norm(hidden) W_up)
  virtual void mlp_up(const LayerWeights& weights, const Batch& batch,
                      Activations& activations) = 0;
  // hidden += mlp W_down
  virtual void mlp_down(const LayerWeights& weights, const Batch& batch,
                        Activations& activations) = 0;
  // final = norm(hidden) of the S head tokens.
  virtual void final_norm(const DeviceTensor& norm, const Batch& batch,
                          Activations& activations) = 0;
  // rows[i] makes row i of the logits: all V, or those of listed tokens, compactly, in their order.
  // At most max_tokens rows; several may be of one head token.
  virtual void head(const DeviceTensor& head, std::span<const HeadRow> rows,
                    Activations& activations, Logits& logits) = 0;
  // tokens[i] is drawn from rows[i], each row by itself. Spoils the logits.
  virtual void sample(Logits& logits, std::span<const SampleRow> rows,
                      std::span<SampledToken> tokens) = 0;
};

struct BackendOptions {
  int num_threads = 0;       // of the CPU; 0: one a core
  std::string isa = "auto";  // "auto", "scalar", "avx2", "avx512"; "cuda": the first GPU
  // A file of save_packed(), by this build and for the same tensors: what is in it is not packed
  // again. Empty: none.
  std::string packed_path = {};
};

// Throws InvalidArgument for an option that is unknown or that this machine cannot do.
std::shared_ptr<Backend> make_backend(const BackendOptions& options);

}  // namespace f1
