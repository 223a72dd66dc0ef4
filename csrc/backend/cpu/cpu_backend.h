// The backend for processors.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/cpu_tensors.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/packed_memory.h"
#include "backend/cpu/thread_pool.h"
#include "backend/sampler.h"

namespace f1 {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options);

  std::string name() const override;
  TensorHandle pack(const Tensor& tensor, TensorRole role) override;
  void save_packed(const std::string& path) override;
  size_t kv_page_bytes(const ModelConfig& config) const override;
  std::unique_ptr<KvCache> make_kv_cache(const ModelConfig& config, int num_pages) override;
  std::unique_ptr<Activations> make_activations(const ModelConfig& config, int max_tokens) override;
  std::unique_ptr<Logits> make_logits(const ModelConfig& config, int max_rows) override;

  void embed(const DeviceTensor& table, const Batch& batch, Activations& activations) override;
  void qkv(const LayerWeights& weights, int layer, const Batch& batch, KvCache& cache,
           Activations& activations) override;
  void attend(int layer, const Batch& batch, const KvCache& cache,
              Activations& activations) override;
  void attn_out(const LayerWeights& weights, const Batch& batch, Activations& activations) override;
  void mlp_up(const LayerWeights& weights, const Batch& batch, Activations& activations) override;
  void mlp_down(const LayerWeights& weights, const Batch& batch, Activations& activations) override;
  void final_norm(const DeviceTensor& norm, const Batch& batch, Activations& activations) override;
  void head(const DeviceTensor& head, std::span<const HeadRow> rows, Activations& activations,
            Logits& logits) override;
  void sample(Logits& logits, std::span<const SampleRow> rows,
              std::span<SampledToken> tokens) override;

 private:
  TensorHandle pack_matrix(const Tensor& tensor);
  TensorHandle pack_head(const Tensor& tensor);
  void mix_rows(const Tensor& table, const Batch& batch, const cpu::CpuActivations& a);
  void float_head(const Tensor& table, std::span<const HeadRow> rows, const cpu::CpuActivations& a,
                  const cpu::CpuLogits& logits);

  const cpu::Kernels& kernels_;
  cpu::ThreadPool pool_;
  cpu::PackedMemory packed_;       // all matrices
  std::vector<Sampler> samplers_;  // one a thread
};

}  // namespace f1
