// What the CPU backend keeps behind the opaque handles of backend.h.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/panels.h"
#include "core/buffer.h"

namespace f1::cpu {

struct MatrixTensor final : DeviceTensor {
  size_t num_bytes() const override { return panels.num_bytes(); }
  PanelMatrix panels{};  // in the backend's arena
};

struct TableTensor final : DeviceTensor {
  size_t num_bytes() const override { return 0; }
  Tensor tensor;  // in the mapped file
};

struct HeadTensor final : DeviceTensor {
  size_t num_bytes() const override {
    return matrix.form == HeadForm::kFloats ? 0 : matrix.num_bytes();
  }
  HeadMatrix matrix{};  // in the backend's arena, or in the mapped file
};

struct VectorTensor final : DeviceTensor {
  size_t num_bytes() const override { return values.size() * sizeof(float); }
  std::vector<float> values;
};

// A page has its layers one after another: a prompt touches as little memory as it fills, and a page
// is moved as a whole. Memory of one layer's page: for each of G, K f16 [E][16], then V f16 [16][E].
// A key's 16 positions lie side by side so that one vector holds 16 scores; a value's E lie side by
// side so that one holds 16 sums.
class CpuKvCache final : public KvCache {
 public:
  CpuKvCache(const ModelConfig& config, int num_pages);
  int num_pages() const override { return num_pages_; }
  int64_t page_stride() const { return page_stride_; }
  // Of page 0; page p lies p * page_stride() further.
  uint16_t* keys(int layer, int group) const;
  uint16_t* values(int layer, int group) const;
  void copy_page(int from, int to) override;
  void read_page(int index, std::span<std::byte> out) const override;
  void write_page(int index, std::span<const std::byte> bytes) override;

 private:
  std::span<std::byte> page(int index) const;

  int num_layers_, num_pages_;
  int64_t num_groups_, head_dim_, layer_stride_, page_stride_;
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
  Buffer<float> values;
  Buffer<TileGroup> groups;
  Rows rows;
};

// What one thread works with.
struct ThreadScratch {
  std::byte* panels;   // [kPanelScratch]
  float* products[2];  // [strip_panels(T), panel_stride(T)] each
  float* row;          // [D]
};

struct CpuActivations final : Activations {
  CpuActivations(const ModelConfig& config, const Kernels& kernels, int64_t max_tokens,
                 int num_threads);
  int max_tokens() const override { return max_tokens_; }
  void read(Part part, std::span<float> out) const override;
  void write(Part part, std::span<const float> values) override;
  std::span<float> part(Part part) const;
  ThreadScratch thread_scratch(int thread) const;
  TileGroup* head_tile(int64_t i) const {
    return head_tiles.data() + i * (config.hidden_size / kGroup);
  }
  float* final_row(int64_t s) const { return final_values.data() + s * config.hidden_size; }
  float* partials(int64_t size);  // at least `size` floats, for attend()

  ModelConfig config;
  const Kernels& kernels;
  int max_tokens_;
  Buffer<float> hidden;    // [T, D]
  OwnedRows normed;        // [T, D]
  Buffer<float> query;     // [T, H * E]
  Buffer<float> new_keys;  // [T, G * E]
  Buffer<float> new_values;
  OwnedRows attended;            // [T, H * E]
  OwnedRows mlp;                 // [T, intermediate]
  Buffer<float> final_values;    // [S, D]
  Buffer<TileGroup> head_tiles;  // of final rows: [S / 4] tiles that are full, [S] with one row
  Buffer<float> cosines;         // [T, E / 2]
  Buffer<float> sines;
  size_t scratch_size;  // a thread's floats
  Buffer<float> scratch;
  Buffer<float> partial_sums;
};

}  // namespace f1::cpu
