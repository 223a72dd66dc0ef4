// What the CUDA backend keeps behind the opaque handles of backend.h.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/device.h"

namespace f1::cuda {

inline constexpr int kChunk =
    32;  // inputs that a warp takes at a time; rows end with zeros up to it

inline int64_t padded(int64_t inputs) { return (inputs + kChunk - 1) / kChunk * kChunk; }

// A layer's matrix, embedding or head.
struct MatrixTensor final : DeviceTensor {
  MatrixTensor(const Stream& stream, int64_t rows, int64_t inputs)
      : rows(rows),
        stride(padded(inputs)),
        values(stream, static_cast<size_t>(rows) * static_cast<size_t>(stride)) {}
  size_t num_bytes() const override { return values.num_bytes(); }
  int64_t rows, stride;
  DeviceBuffer<Bf16> values;  // [rows, stride]
};

struct VectorTensor final : DeviceTensor {
  VectorTensor(const Stream& stream, size_t size) : values(stream, size) {}
  size_t num_bytes() const override { return values.num_bytes(); }
  DeviceBuffer<float> values;
};

// f16 [page][layer][K, V][G][slot][E]: a page of all layers is one range of bytes.
class CudaKvCache final : public KvCache {
 public:
  CudaKvCache(const Stream& stream, const ModelConfig& config, int num_pages);
  int num_pages() const override { return num_pages_; }
  int64_t page_stride() const { return page_stride_; }
  // Of page 0; page p lies p * page_stride() further.
  F16* keys(int layer) const;
  F16* values(int layer) const;
  void copy_page(int from, int to) override;
  void read_page(int page, std::span<std::byte> out) const override;
  void write_page(int page, std::span<const std::byte> bytes) override;

 private:
  size_t page_bytes() const { return static_cast<size_t>(page_stride_) * sizeof(F16); }
  F16* page_at(int page) const;

  const Stream& stream_;
  int num_pages_;
  int64_t layer_stride_, page_stride_;
  DeviceBuffer<F16> memory_;
};

class CudaLogits final : public Logits {
 public:
  CudaLogits(const Stream& stream, const ModelConfig& config, int max_rows);
  int max_rows() const override { return max_rows_; }
  int64_t vocab_size() const { return vocab_size_; }
  float* row(int index) const;
  void read(int row, std::span<float> out) const override;
  void write(int row, std::span<const float> values) override;

 private:
  const Stream& stream_;
  int max_rows_;
  int64_t vocab_size_;
  DeviceBuffer<float> memory_;
};

struct CudaActivations final : Activations {
  CudaActivations(const Stream& stream, const ModelConfig& config, int max_tokens);
  int max_tokens() const override { return max_tokens_; }
  void read(Part part, std::span<float> out) const override;
  void write(Part part, std::span<const float> values) override;

  // Brings a batch's tables to the device, where tables_ holds them one after another:
  //   token_ids [T] | positions [T] | page_begin of each token's sequence [T] | head_tokens [S] |
  //   page_ids
  void upload_batch(const Batch& batch);
  const int32_t* token_ids() const { return tables.data(); }
  const int32_t* positions() const { return tables.data() + num_tokens; }
  const int32_t* page_begin() const { return tables.data() + 2 * num_tokens; }
  const int32_t* head_tokens() const { return tables.data() + 3 * num_tokens; }
  const int32_t* page_ids() const { return tables.data() + 3 * num_tokens + num_heads_wanted; }
  // The same for its mixes: mixed_tokens [M] | mix_begin [M + 1] | mix_ids.
  void upload_mixes(const Batch& batch);

  const Stream& stream;
  ModelConfig config;
  int max_tokens_;
  size_t num_tokens = 0, num_heads_wanted = 0;  // T and S of the batch
  DeviceBuffer<int32_t> tables, mixes;
  DeviceBuffer<float> mix_weights;
  DeviceBuffer<int32_t> listed;    // of head(): the tokens of all its rows
  DeviceBuffer<float> hidden;      // [T, D]
  DeviceBuffer<float> query;       // [T, H * E]
  DeviceBuffer<float> new_keys;    // [T, G * E]
  DeviceBuffer<float> new_values;  // [T, G * E]
  DeviceBuffer<float> inv_freq;    // [E / 2]
  DeviceBuffer<float> cosines;     // [T, E / 2]
  DeviceBuffer<float> sines;       // [T, E / 2]
  DeviceBuffer<Bf16> normed;       // [T, padded(D)]
  DeviceBuffer<Bf16> attended;     // [T, padded(H * E)]
  DeviceBuffer<Bf16> mlp;          // [T, padded(intermediate)]
  DeviceBuffer<Bf16> final_rows;   // [S, padded(D)]

 private:
  struct Rows {  // of bf16
    const DeviceBuffer<Bf16>* buffer;
    int64_t width;
  };
  const DeviceBuffer<float>* floats_of(Part part) const;  // null: the part is bf16
  Rows rows_of(Part part) const;
};

}  // namespace f1::cuda
