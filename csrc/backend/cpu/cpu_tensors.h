// What the CPU backend keeps behind the opaque handles of backend.h.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/panels.h"
#include "core/buffer.h"

namespace f1::cpu {

struct MatrixTensor final : DeviceTensor {
  size_t num_bytes() const override {
    return static_cast<size_t>(panels.num_panels()) * panels.panel_bytes;
  }
  PanelMatrix panels{};  // in the backend's arena
};

struct TableTensor final : DeviceTensor {
  size_t num_bytes() const override { return 0; }
  Tensor tensor;  // in the mapped file
};

struct VectorTensor final : DeviceTensor {
  size_t num_bytes() const override { return values.size() * sizeof(float); }
  std::vector<float> values;
};

// Memory of one layer's page: K f16 [G][E][16], then V f16 [G][16][E]. A key's 16 positions lie
// side by side so that one vector holds 16 scores; a value's E lie side by side so that one holds
// 16 sums.
class CpuKvCache final : public KvCache {
 public:
  CpuKvCache(const ModelConfig& config, int num_pages);
  int num_pages() const override { return num_pages_; }
  int64_t page_stride() const { return page_stride_; }
  // Of page 0; page p lies p * page_stride() further.
  uint16_t* keys(int layer, int group) const;
  uint16_t* values(int layer, int group) const;
  void copy_page(int from, int to) override;
  void read_page(int page, std::span<std::byte> out) const override;
  void write_page(int page, std::span<const std::byte> bytes) override;

 private:
  size_t layer_bytes() const { return static_cast<size_t>(page_stride_) * sizeof(uint16_t); }
  std::byte* page_of_layer(int layer, int page) const;

  int num_layers_, num_pages_;
  int64_t num_groups_, head_dim_, page_stride_;
  Buffer<uint16_t> memory_;
};

class CpuLogits final : public Logits {
 public:
  CpuLogits(const ModelConfig& config, int max_rows);
  int max_rows() const override { return max_rows_; }
  float* row(int index) const { return memory_.data() + index * vocab_size_; }
  void read(int row, std::span<float> out) const override;
  void write(int row, std::span<const float> values) override;

 private:
  int max_rows_;
  int64_t vocab_size_;
  Buffer<float> memory_;
};

// Rows with the memory behind them.
struct OwnedRows {
  OwnedRows(int64_t max_tokens, int64_t inputs);
  Buffer<float> values, scales, scaled_sums;
  Buffer<int8_t> codes;
  Buffer<int32_t> minus_sums;
  Rows rows;
};

struct CpuActivations final : Activations {
  CpuActivations(const ModelConfig& config, int64_t max_tokens, int num_threads);
  int max_tokens() const override { return max_tokens_; }
  void read(Part part, std::span<float> out) const override;
  void write(Part part, std::span<const float> values) override;
  std::span<float> part(Part part) const;
  float* thread_scratch(int thread) const { return scratch.data() + thread * scratch_size; }

  ModelConfig config;
  int max_tokens_;
  Buffer<float> hidden;    // [T, D]
  OwnedRows normed;        // [T, D]
  Buffer<float> query;     // [T, H * E]
  Buffer<float> new_keys;  // [T, G * E]
  Buffer<float> new_values;
  OwnedRows attended;     // [T, H * E]
  OwnedRows mlp;          // [T, intermediate]
  OwnedRows final_rows;   // [S, D]
  Buffer<float> cosines;  // [T, E / 2]
  Buffer<float> sines;
  int64_t scratch_size;  // a thread's floats for head()
  Buffer<float> scratch;
};

}  // namespace f1::cpu
