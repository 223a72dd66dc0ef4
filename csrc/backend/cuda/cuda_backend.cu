#include <cmath>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_tensors.h"
#include "backend/cuda/matrix_kernels.h"
#include "backend/cuda/pack.h"
#include "backend/cuda/row_kernels.h"
#include "backend/cuda/sample_kernels.h"
#include "backend/sampler.h"

namespace f1::cuda {
namespace {

constexpr int kMaxGridY = 65535;

const MatrixTensor& matrix_of(const DeviceTensor& tensor) {
  return static_cast<const MatrixTensor&>(tensor);
}

// Null when the model has no such vector.
const float* vector_of(const TensorHandle& handle) {
  return handle ? static_cast<const VectorTensor&>(*handle).values.data() : nullptr;
}

CudaActivations& cuda_of(Activations& activations) {
  return static_cast<CudaActivations&>(activations);
}

Rotation rotation_of(const CudaActivations& a) {
  return {a.inv_freq.data(), a.cosines.data(), a.sines.data(), a.config.head_dim / 2};
}

dim3 grid_of(int64_t x, int64_t y = 1) {
  F1_CHECK(x > 0 && x <= INT32_MAX && y > 0 && y <= kMaxGridY, "grid ", x, " x ", y);
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
}

void check_supported(const ModelConfig& config) {
  if (config.head_dim > kMaxHeadDim)
    throw InvalidArgument(concat("isa 'cuda': head_dim is ", config.head_dim, ", at most ",
                                 kMaxHeadDim, " is supported"));
  if (int64_t{config.num_heads} + 2 * int64_t{config.num_kv_heads} > kMaxGridY)
    throw InvalidArgument(concat("isa 'cuda': more than ", kMaxGridY, " heads of Q, K and V"));
}

template <int kMatrices, typename Finish>
void multiply(const Stream& stream, const Product<kMatrices>& p, const Finish& finish) {
  constexpr int kBlockTokens = kTiles * kTileTokens;
  if (p.num_tokens == 0 || p.num_outputs == 0) return;
  const dim3 grid = grid_of((int64_t{p.num_outputs} + kTileOutputs - 1) / kTileOutputs,
                            (int64_t{p.num_tokens} + kBlockTokens - 1) / kBlockTokens);
  F1_LAUNCH((product_kernel<kMatrices, Finish>), grid, kProductWarps * kWarp,
            kProductShared<kMatrices>, stream.handle(), p, finish);
}

// Of all outputs of one matrix and the first rows of x.
Product<1> product_of(const MatrixTensor& matrix, const DeviceBuffer<Bf16>& x, int num_tokens) {
  return {{matrix.values.data()},        nullptr,   x.data(), nullptr, matrix.stride,
          static_cast<int>(matrix.rows), num_tokens};
}

bool is_greedy(const SamplingParams& params) {
  return params.temperature == 0 && !params.has_penalties() && params.logit_bias.empty() &&
         params.num_logprobs < 0;
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::string name)
      : name_(std::move(name)),
        masks_(stream_, 0),
        greedy_rows_(stream_, 0),
        greedy_indices_(stream_, 0) {}

  std::string name() const override { return name_; }

  TensorHandle pack(const Tensor& tensor, TensorRole role) override {
    if (role == TensorRole::kVector) {
      std::vector<float> values(static_cast<size_t>(tensor.rows * tensor.inputs));
      for (int64_t row = 0; row < tensor.rows; ++row)
        decode_row(tensor, row, values.data() + row * tensor.inputs);
      auto vector = std::make_unique<VectorTensor>(stream_, values.size());
      vector->values.upload(values);
      return vector;
    }
    auto matrix = std::make_unique<MatrixTensor>(stream_, tensor.rows, tensor.inputs);
    matrix->values.upload(pack_rows(tensor, matrix->stride));
    return matrix;
  }

  size_t kv_page_bytes(const ModelConfig& config) const override {
    return sizeof(F16) * 2 * kPageSize * static_cast<size_t>(config.num_layers) *
           static_cast<size_t>(config.num_kv_heads) * static_cast<size_t>(config.head_dim);
  }

  std::unique_ptr<KvCache> make_kv_cache(const ModelConfig& config, int num_pages) override {
    return std::make_unique<CudaKvCache>(stream_, config, num_pages);
  }

  std::unique_ptr<Activations> make_activations(const ModelConfig& config,
                                                int max_tokens) override {
    check_supported(config);
    return std::make_unique<CudaActivations>(stream_, config, max_tokens);
  }

  std::unique_ptr<Logits> make_logits(const ModelConfig& config, int max_rows) override {
    return std::make_unique<CudaLogits>(stream_, config, max_rows);
  }

  void embed(const DeviceTensor& table, const Batch& batch, Activations& activations) override {
    CudaActivations& a = cuda_of(activations);
    a.upload_batch(batch);
    if (batch.num_tokens() == 0) return;
    const MatrixTensor& rows = matrix_of(table);
    F1_LAUNCH(embed_kernel, grid_of(batch.num_tokens()), kRowThreads, 0, stream_.handle(),
              rows.values.data(), rows.stride, a.token_ids(), a.positions(), a.config.hidden_size,
              a.hidden.data(), rotation_of(a));
    if (batch.num_mixes() == 0) return;
    a.upload_mixes(batch);
    F1_LAUNCH(mix_kernel, grid_of(batch.num_mixes()), kRowThreads, 0, stream_.handle(),
              rows.values.data(), rows.stride, a.mixes.data(), batch.num_mixes(),
              a.mix_weights.data(), a.config.hidden_size, a.hidden.data());
  }

  void qkv(const LayerWeights& weights, int layer, const Batch& batch, KvCache& cache,
           Activations& activations) override {
    CudaActivations& a = cuda_of(activations);
    const int num_tokens = batch.num_tokens();
    if (num_tokens == 0) return;
    norm(a, vector_of(weights.attn_norm), nullptr, num_tokens, a.normed);
    const auto part = [&](const TensorHandle& handle, const TensorHandle& bias,
                          const DeviceBuffer<float>& out) {
      const MatrixTensor& matrix = matrix_of(*handle);
      multiply(stream_, product_of(matrix, a.normed, num_tokens),
               Store{out.data(), vector_of(bias), nullptr, matrix.rows});
    };
    part(weights.q, weights.q_bias, a.query);
    part(weights.k, weights.k_bias, a.new_keys);
    part(weights.v, weights.v_bias, a.new_values);

    const auto& pages = static_cast<const CudaKvCache&>(cache);
    const ModelConfig& c = a.config;
    const NewHeads heads{.query = a.query.data(),
                         .keys = a.new_keys.data(),
                         .values = a.new_values.data(),
                         .query_norm = vector_of(weights.q_norm),
                         .key_norm = vector_of(weights.k_norm),
                         .positions = a.positions(),
                         .page_begin = a.page_begin(),
                         .page_ids = a.page_ids(),
                         .key_pages = pages.keys(layer),
                         .value_pages = pages.values(layer),
                         .page_stride = pages.page_stride(),
                         .rotation = rotation_of(a),
                         .num_heads = c.num_heads,
                         .num_kv_heads = c.num_kv_heads,
                         .eps = c.norm_eps,
                         .query_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                         .interleaved = c.rope_interleaved};
    F1_LAUNCH(finish_heads_kernel, grid_of(num_tokens, c.num_heads + 2 * c.num_kv_heads), kWarp, 0,
              stream_.handle(), heads);
  }

  void attend(int layer, const Batch& batch, const KvCache& cache,
              Activations& activations) override {
    CudaActivations& a = cuda_of(activations);
    if (batch.num_tokens() == 0) return;
    const auto& pages = static_cast<const CudaKvCache&>(cache);
    const ModelConfig& c = a.config;
    const Attend attend{.query = a.query.data(),
                        .key_pages = pages.keys(layer),
                        .value_pages = pages.values(layer),
                        .page_stride = pages.page_stride(),
                        .positions = a.positions(),
                        .page_begin = a.page_begin(),
                        .page_ids = a.page_ids(),
                        .out = a.attended.data(),
                        .out_stride = padded(int64_t{c.num_heads} * c.head_dim),
                        .num_heads = c.num_heads,
                        .num_kv_heads = c.num_kv_heads,
                        .width = c.head_dim};
    F1_LAUNCH(attend_kernel, grid_of(batch.num_tokens(), c.num_heads), kAttendWarps * kWarp,
              attend_shared(c.head_dim), stream_.handle(), attend);
  }

  void attn_out(const LayerWeights& weights, const Batch& batch,
                Activations& activations) override {
    CudaActivations& a = cuda_of(activations);
    add_product(weights.o, a, a.attended, batch.num_tokens());
  }

  void mlp_up(const LayerWeights& weights, const Batch& batch, Activations& activations) override {
    CudaActivations& a = cuda_of(activations);
    norm(a, vector_of(weights.mlp_norm), nullptr, batch.num_tokens(), a.normed);
    const MatrixTensor& gate = matrix_of(*weights.gate);
    const MatrixTensor& up = matrix_of(*weights.up);
    const Product<2> product{{gate.values.data(), up.values.data()},
                             nullptr,
                             a.normed.data(),
                             nullptr,
                             gate.stride,
                             static_cast<int>(gate.rows),
                             batch.num_tokens()};
    multiply(stream_, product, SiluMul{a.mlp.data(), padded(gate.rows)});
  }

  void mlp_down(const LayerWeights& weights, const Batch& batch,
                Activations& activations) override {
    CudaActivations& a = cuda_of(activations);
    add_product(weights.down, a, a.mlp, batch.num_tokens());
  }

  void final_norm(const DeviceTensor& weight, const Batch& batch,
                  Activations& activations) override {
    CudaActivations& a = cuda_of(activations);
    norm(a, static_cast<const VectorTensor&>(weight).values.data(), a.head_tokens(),
         static_cast<int>(batch.head_tokens.size()), a.final_rows);
  }

  void head(const DeviceTensor& table, std::span<const HeadRow> rows, Activations& activations,
            Logits& logits) override;
  void sample(Logits& logits, std::span<const SampleRow> rows,
              std::span<SampledToken> tokens) override;

 private:
  void norm(const CudaActivations& a, const float* weight, const int32_t* rows, int num_rows,
            const DeviceBuffer<Bf16>& out) const {
    if (num_rows == 0) return;
    const int width = a.config.hidden_size;
    F1_LAUNCH(rms_norm_kernel, grid_of(num_rows), kRowThreads, kRowShared, stream_.handle(),
              a.hidden.data(), rows, weight, a.config.norm_eps, width, out.data(), padded(width));
  }

  // hidden += x W
  void add_product(const TensorHandle& handle, const CudaActivations& a,
                   const DeviceBuffer<Bf16>& x, int num_tokens) const {
    const MatrixTensor& matrix = matrix_of(*handle);
    multiply(stream_, product_of(matrix, x, num_tokens), Add{a.hidden.data(), matrix.rows});
  }

  void sample_greedily(const CudaLogits& logits, std::span<const SampleRow> rows,
                       std::span<SampledToken> tokens);

  std::string name_;
  Stream stream_;
  // For sample(): what the greedy rows need.
  DeviceBuffer<int32_t> masks_;
  DeviceBuffer<GreedyRow> greedy_rows_;
  DeviceBuffer<int32_t> greedy_indices_;
  Sampler sampler_;
};

void CudaBackend::head(const DeviceTensor& table, std::span<const HeadRow> rows,
                       Activations& activations, Logits& logits) {
  CudaActivations& a = cuda_of(activations);
  auto& out = static_cast<CudaLogits&>(logits);
  const MatrixTensor& matrix = matrix_of(table);
  if (rows.empty()) return;
  // On the device: head indices of all rows, then which rows are full, then all listed tokens.
  std::vector<int32_t> joined;
  for (const HeadRow& row : rows) joined.push_back(row.head_index);
  std::vector<int32_t> full_heads, full_rows;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].listed_tokens.empty()) continue;
    full_heads.push_back(rows[i].head_index);
    full_rows.push_back(static_cast<int32_t>(i));
  }
  joined.insert(joined.end(), full_heads.begin(), full_heads.end());
  joined.insert(joined.end(), full_rows.begin(), full_rows.end());
  const size_t listed_begin = joined.size();
  for (const HeadRow& row : rows)
    joined.insert(joined.end(), row.listed_tokens.begin(), row.listed_tokens.end());
  a.listed.upload_growing(joined);

  const int32_t* const head_indices = a.listed.data();
  Product<1> full = product_of(matrix, a.final_rows, static_cast<int>(full_heads.size()));
  full.x_rows = head_indices + rows.size();
  multiply(stream_, full,
           Store{out.row(0), nullptr, full.x_rows + full_heads.size(), out.vocab_size()});
  const int32_t* listed_tokens = a.listed.data() + listed_begin;
  for (size_t i = 0; i < rows.size(); ++i) {
    Product<1> listed = product_of(matrix, a.final_rows, 1);
    listed.num_outputs = static_cast<int>(rows[i].listed_tokens.size());
    listed.weight_rows = listed_tokens;
    listed.x_rows = head_indices + i;
    multiply(stream_, listed,
             Store{out.row(static_cast<int>(i)), nullptr, nullptr, out.vocab_size()});
    listed_tokens += rows[i].listed_tokens.size();
  }
}

// What is greedy is found on the device; other rows' logits come to the host's sampler.
void CudaBackend::sample(Logits& logits, std::span<const SampleRow> rows,
                         std::span<SampledToken> tokens) {
  const auto& on_device = static_cast<const CudaLogits&>(logits);
  sample_greedily(on_device, rows, tokens);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (is_greedy(*rows[i].params)) continue;
    std::vector<float> row(static_cast<size_t>(rows[i].num_logits));
    on_device.read(rows[i].row, row);
    tokens[i] = sampler_.sample(rows[i], row);
  }
}

void CudaBackend::sample_greedily(const CudaLogits& logits, std::span<const SampleRow> rows,
                                  std::span<SampledToken> tokens) {
  const auto num_words = [](const SampleRow& row) { return (row.num_logits + 31) / 32; };
  std::vector<int32_t> masks;
  std::vector<GreedyRow> greedy;
  for (const SampleRow& row : rows)
    if (is_greedy(*row.params) && row.mask)
      masks.insert(masks.end(), row.mask, row.mask + num_words(row));
  masks_.upload_growing(masks);
  const int32_t* mask = masks_.data();
  for (const SampleRow& row : rows) {
    if (!is_greedy(*row.params)) continue;
    F1_CHECK(row.num_logits <= logits.vocab_size(), row.num_logits, " logits");
    greedy.push_back({logits.row(row.row), row.mask ? mask : nullptr, row.num_logits});
    if (row.mask) mask += num_words(row);
  }
  if (greedy.empty()) return;
  greedy_rows_.upload_growing(greedy);
  greedy_indices_.upload_growing(std::vector<int32_t>(greedy.size()));
  F1_LAUNCH(argmax_kernel, grid_of(std::ssize(greedy)), kArgmaxThreads, kArgmaxShared,
            stream_.handle(), greedy_rows_.data(), greedy_indices_.data());
  const std::vector<int32_t> indices = greedy_indices_.download(0, greedy.size());
  auto index = indices.begin();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!is_greedy(*rows[i].params)) continue;
    const auto& listed = rows[i].listed_tokens;
    tokens[i] = {};
    tokens[i].token_id =
        *index < 0 || listed.empty() ? *index : listed[static_cast<size_t>(*index)];
    ++index;
  }
}

std::string device_name() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    (void)cudaGetLastError();
    throw InvalidArgument(
        concat("isa 'cuda': no GPU can be used here (",
               count == 0 && status == cudaSuccess ? "none is shown" : cudaGetErrorString(status),
               "); take isa 'auto'"));
  }
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  if (properties.major < 8)
    throw InvalidArgument(concat("isa 'cuda': ", properties.name, " has compute capability ",
                                 properties.major, ".", properties.minor, ", 8.0 is needed"));
  return concat("cuda ", properties.name);
}

}  // namespace
}  // namespace f1::cuda

namespace f1 {

std::shared_ptr<Backend> make_cuda_backend() {
  return std::make_shared<cuda::CudaBackend>(cuda::device_name());
}

}  // namespace f1
