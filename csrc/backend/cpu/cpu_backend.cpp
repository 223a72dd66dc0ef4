#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "backend/cpu/pack.h"
#include "core/error.h"
#include "core/half.h"

namespace f1 {
namespace {

using namespace cpu;

constexpr int64_t kTokenChunk = 4;  // tokens a thread takes at a time in row-wise work
constexpr int64_t kChunks = 8;      // of a matrix, a thread: what a preempted one holds up
constexpr int kMaxThreads = 1024;

int num_threads_of(int requested) {
  if (requested < 0 || requested > kMaxThreads)
    throw InvalidArgument(concat("num_threads is ", requested, ", must be 0 to ", kMaxThreads));
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return requested == 0 ? std::min(cores, kMaxThreads) : requested;
}

// The kernels that this processor can run, best first.
std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> kernels;
#if defined(__x86_64__)
  if (kAvx512Kernels && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    kernels.push_back(kAvx512Kernels);
  if (kAvx2Kernels && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    kernels.push_back(kAvx2Kernels);
#endif
  kernels.push_back(&kScalarKernels);
  return kernels;
}

const Kernels& kernels_of(const std::string& isa) {
  for (const Kernels* kernels : supported_kernels())
    if (isa == "auto" || isa == kernels->name) return *kernels;
  if (isa != "avx2" && isa != "avx512")
    throw InvalidArgument(concat("isa '", isa, "' is not one of auto, scalar, avx2, avx512"));
  throw InvalidArgument(concat("isa '", isa, "': this processor does not have it"));
}

const PanelMatrix& panels_of(const TensorHandle& handle) {
  return static_cast<const MatrixTensor&>(*handle).panels;
}

// Null when the model has no such vector.
const float* vector_of(const TensorHandle& handle) {
  return handle ? static_cast<const VectorTensor&>(*handle).values.data() : nullptr;
}

CpuActivations& cpu_of(Activations& activations) {
  return static_cast<CpuActivations&>(activations);
}

// Work on panels is counted in strips.
int64_t num_strips(const PanelMatrix& matrix, int64_t num_tokens) {
  const int64_t size = strip_panels(num_tokens);
  return (matrix.num_panels() + size - 1) / size;
}
int64_t strip_chunk(const ThreadPool& pool, int64_t strips) {
  return std::max<int64_t>(1, strips / (pool.num_threads() * kChunks));
}

// The products of one panel: rows row .. row + num_rows - 1 of the matrix, tile[token][16].
struct Product {
  int64_t row, num_rows;
  const float* tile;
};

struct Strip {
  const PanelMatrix& matrix;
  int64_t panel;
  int num_panels;
  const float* products;
  int64_t stride;

  Product product(int i) const {
    const int64_t row = (panel + i) * kPanelRows;
    return {row, std::min<int64_t>(kPanelRows, matrix.rows - row), products + i * stride};
  }
};

Strip multiply(const Kernels& kernels, const PanelMatrix& matrix, int64_t strip, const Rows& rows,
               int64_t num_tokens, const ThreadScratch& scratch, int place = 0) {
  const int64_t size = strip_panels(num_tokens), panel = strip * size;
  const int num_panels = static_cast<int>(std::min(size, matrix.num_panels() - panel));
  kernels.panels_dot(matrix, panel, num_panels, rows, num_tokens, scratch.panels,
                     scratch.products[place]);
  return {matrix, panel, num_panels, scratch.products[place], panel_stride(num_tokens)};
}

// hidden += rows W
void add_product(const Kernels& kernels, ThreadPool& pool, const PanelMatrix& matrix,
                 const Rows& rows, int64_t num_tokens, const CpuActivations& a) {
  const int64_t strips = num_strips(matrix, num_tokens);
  pool.run(strips, strip_chunk(pool, strips), [&](int64_t begin, int64_t end, int thread) {
    const ThreadScratch scratch = a.thread_scratch(thread);
    for (int64_t i = begin; i < end; ++i) {
      const Strip strip = multiply(kernels, matrix, i, rows, num_tokens, scratch);
      for (int p = 0; p < strip.num_panels; ++p) {
        const Product product = strip.product(p);
        for (int64_t t = 0; t < num_tokens; ++t)
          for (int64_t r = 0; r < product.num_rows; ++r)
            a.hidden.data()[t * matrix.rows + product.row + r] += product.tile[t * kPanelRows + r];
      }
    }
  });
}

void quantize_row(const Kernels& kernels, const Rows& rows, int64_t t) {
  kernels.quantize(rows.row(t), rows.inputs / kGroup, static_cast<int>(t % kTile),
                   rows.tile(t / kTile));
}

// Codes are made only when some weights need them: widths of float models fit no groups of 32.
bool any_quantized(std::initializer_list<const TensorHandle*> matrices) {
  return std::ranges::any_of(
      matrices, [](const auto* handle) { return !is_float(panels_of(*handle).dtype); });
}

void norm_rows(const Kernels& kernels, ThreadPool& pool, const CpuActivations& a,
               const float* weight, int64_t num_tokens, bool quantized) {
  const int64_t width = a.config.hidden_size;
  pool.run(num_tokens, kTokenChunk, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernels.rms_norm(a.hidden.data() + t * width, weight, width, a.config.norm_eps,
                       a.normed.rows.row(t));
      if (quantized) quantize_row(kernels, a.normed.rows, t);
    }
  });
}

// Norms (when the model has them) and rotates all heads of one token.
void finish_heads(const Kernels& kernels, const CpuActivations& a, int64_t t, int num_heads,
                  const float* norm, float* x) {
  const int width = a.config.head_dim;
  for (int h = 0; h < num_heads; ++h, x += width) {
    if (norm) kernels.rms_norm(x, norm, width, a.config.norm_eps, x);
    kernels.rotate(a.cosines.data() + t * width / 2, a.sines.data() + t * width / 2, width / 2,
                   a.config.rope_interleaved, x);
  }
}

int32_t page_of(const Batch& batch, int64_t t) {
  const int32_t sequence = batch.sequence_of[t];
  return batch.page_ids[batch.page_begin[sequence] + batch.positions[t] / kPageSize];
}

void write_page(const Kernels& kernels, const CpuKvCache& cache, const CpuActivations& a, int layer,
                const Batch& batch, int64_t t) {
  const int width = a.config.head_dim, num_groups = a.config.num_kv_heads;
  const int64_t page = page_of(batch, t) * cache.page_stride();
  const int slot = batch.positions[t] % kPageSize;
  for (int g = 0; g < num_groups; ++g) {
    const int64_t source = (t * num_groups + g) * width;
    kernels.write_slot(a.new_keys.data() + source, a.new_values.data() + source, width,
                       cache.keys(layer, g) + page + slot,
                       cache.values(layer, g) + page + slot * width);
  }
}

}  // namespace

CpuBackend::CpuBackend(const BackendOptions& options)
    : kernels_(kernels_of(options.isa)),
      pool_(num_threads_of(options.num_threads)),
      packed_(options.packed_path, CpuBackend::name(), pool_),
      samplers_(static_cast<size_t>(pool_.num_threads())) {}

std::string CpuBackend::name() const { return concat("cpu ", kernels_.name); }

TensorHandle CpuBackend::pack(const Tensor& tensor, TensorRole role) {
  switch (role) {
    case TensorRole::kTable: {
      auto table = std::make_unique<TableTensor>();
      table->tensor = tensor;
      return table;
    }
    case TensorRole::kHead:
      return pack_head(tensor);
    case TensorRole::kMatrix:
      return pack_matrix(tensor);
    case TensorRole::kVector:
      break;
  }
  auto vector = std::make_unique<VectorTensor>();
  vector->values.resize(static_cast<size_t>(tensor.rows * tensor.inputs));
  for (int64_t row = 0; row < tensor.rows; ++row)
    kernels_.decode_row(tensor, row, vector->values.data() + row * tensor.inputs);
  return vector;
}

TensorHandle CpuBackend::pack_matrix(const Tensor& tensor) {
  auto matrix = std::make_unique<MatrixTensor>();
  matrix->panels = panel_layout(tensor);
  matrix->panels.data = packed_.find(matrix->num_bytes());
  if (matrix->panels.data) return matrix;
  std::byte* memory = packed_.allocate(matrix->num_bytes());
  matrix->panels.data = memory;
  pool_.run(matrix->panels.num_panels(), 2, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; ++panel)
      pack_panel(tensor, matrix->panels, panel, memory);
  });
  return matrix;
}

void CpuBackend::save_packed(const std::string& path) { packed_.save(path, name()); }

size_t CpuBackend::kv_page_bytes(const ModelConfig& config) const {
  return sizeof(uint16_t) * 2 * kPageSize * static_cast<size_t>(config.num_layers) *
         static_cast<size_t>(config.num_kv_heads) * static_cast<size_t>(config.head_dim);
}

std::unique_ptr<KvCache> CpuBackend::make_kv_cache(const ModelConfig& config, int num_pages) {
  return std::make_unique<CpuKvCache>(config, num_pages);
}

std::unique_ptr<Activations> CpuBackend::make_activations(const ModelConfig& config,
                                                          int max_tokens) {
  return std::make_unique<CpuActivations>(config, kernels_, max_tokens, pool_.num_threads());
}

std::unique_ptr<Logits> CpuBackend::make_logits(const ModelConfig& config, int max_rows) {
  return std::make_unique<CpuLogits>(config, max_rows);
}

void CpuBackend::embed(const DeviceTensor& table, const Batch& batch, Activations& activations) {
  CpuActivations& a = cpu_of(activations);
  const int half = a.config.head_dim / 2;
  pool_.run(batch.num_tokens(), kTokenChunk, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.decode_row(static_cast<const TableTensor&>(table).tensor, batch.token_ids[t],
                          a.hidden.data() + t * a.config.hidden_size);
      for (int i = 0; i < half; ++i) {
        const float angle = static_cast<float>(batch.positions[t]) * a.config.rope_inv_freq[i];
        a.cosines.data()[t * half + i] = std::cos(angle);
        a.sines.data()[t * half + i] = std::sin(angle);
      }
    }
  });
  if (batch.num_mixes() > 0) mix_rows(static_cast<const TableTensor&>(table).tensor, batch, a);
}

void CpuBackend::mix_rows(const Tensor& table, const Batch& batch, const CpuActivations& a) {
  const int64_t width = a.config.hidden_size;
  pool_.run(batch.num_mixes(), 1, [&](int64_t begin, int64_t end, int thread) {
    float* const row = a.thread_scratch(thread).row;
    for (int64_t m = begin; m < end; ++m) {
      float* const hidden = a.hidden.data() + batch.mixed_tokens[m] * width;
      for (int32_t k = batch.mix_begin[m]; k < batch.mix_begin[m + 1]; ++k) {
        const float weight = batch.mix_weights[k];
        kernels_.decode_row(table, batch.mix_ids[k], row);
        const bool is_first = k == batch.mix_begin[m];  // 1 * x is x, and 0 + x is not always
        for (int64_t i = 0; i < width; ++i)
          hidden[i] = is_first ? weight * row[i] : hidden[i] + weight * row[i];
      }
    }
  });
}

void CpuBackend::qkv(const LayerWeights& weights, int layer, const Batch& batch, KvCache& cache,
                     Activations& activations) {
  CpuActivations& a = cpu_of(activations);
  const int64_t num_tokens = batch.num_tokens();
  norm_rows(kernels_, pool_, a, vector_of(weights.attn_norm), num_tokens,
            any_quantized({&weights.q, &weights.k, &weights.v}));

  struct Part {
    const PanelMatrix& matrix;
    const float* bias;
    float* out;
  };
  const Part parts[] = {
      {panels_of(weights.q), vector_of(weights.q_bias), a.query.data()},
      {panels_of(weights.k), vector_of(weights.k_bias), a.new_keys.data()},
      {panels_of(weights.v), vector_of(weights.v_bias), a.new_values.data()},
  };
  int64_t strips = 0;
  for (const Part& part : parts) strips += num_strips(part.matrix, num_tokens);
  pool_.run(strips, strip_chunk(pool_, strips), [&](int64_t begin, int64_t end, int thread) {
    const ThreadScratch scratch = a.thread_scratch(thread);
    for (const Part& part : parts) {  // [begin, end) counts the parts' strips one after another
      const int64_t size = num_strips(part.matrix, num_tokens), width = part.matrix.rows;
      for (int64_t i = std::max<int64_t>(begin, 0); i < std::min(end, size); ++i) {
        const Strip strip = multiply(kernels_, part.matrix, i, a.normed.rows, num_tokens, scratch);
        for (int p = 0; p < strip.num_panels; ++p) {
          const Product product = strip.product(p);
          for (int64_t t = 0; t < num_tokens; ++t)
            for (int64_t r = 0; r < product.num_rows; ++r)
              part.out[t * width + product.row + r] =
                  product.tile[t * kPanelRows + r] +
                  (part.bias ? part.bias[product.row + r] : 0.0f);
        }
      }
      begin -= size;
      end -= size;
    }
  });

  auto& pages = static_cast<CpuKvCache&>(cache);
  const int width = a.config.head_dim, num_heads = a.config.num_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  pool_.run(num_tokens, kTokenChunk, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* query = a.query.data() + t * num_heads * width;
      finish_heads(kernels_, a, t, num_heads, vector_of(weights.q_norm), query);
      for (int i = 0; i < num_heads * width; ++i) query[i] *= scale;
      finish_heads(kernels_, a, t, a.config.num_kv_heads, vector_of(weights.k_norm),
                   a.new_keys.data() + t * a.config.num_kv_heads * width);
      write_page(kernels_, pages, a, layer, batch, t);
    }
  });
}

void CpuBackend::attn_out(const LayerWeights& weights, const Batch& batch,
                          Activations& activations) {
  CpuActivations& a = cpu_of(activations);
  if (any_quantized({&weights.o})) {
    pool_.run(batch.num_tokens(), kTokenChunk, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) quantize_row(kernels_, a.attended.rows, t);
    });
  }
  add_product(kernels_, pool_, panels_of(weights.o), a.attended.rows, batch.num_tokens(), a);
}

void CpuBackend::mlp_up(const LayerWeights& weights, const Batch& batch, Activations& activations) {
  CpuActivations& a = cpu_of(activations);
  const int64_t num_tokens = batch.num_tokens();
  norm_rows(kernels_, pool_, a, vector_of(weights.mlp_norm), num_tokens,
            any_quantized({&weights.gate, &weights.up}));
  const PanelMatrix& gate = panels_of(weights.gate);
  const PanelMatrix& up = panels_of(weights.up);
  const bool quantized = any_quantized({&weights.down});  // then a strip is some whole groups
  const int64_t strips = num_strips(gate, num_tokens);
  pool_.run(strips, strip_chunk(pool_, strips), [&](int64_t begin, int64_t end, int thread) {
    const ThreadScratch scratch = a.thread_scratch(thread);
    for (int64_t i = begin; i < end; ++i) {
      const Strip gates = multiply(kernels_, gate, i, a.normed.rows, num_tokens, scratch, 0);
      const Strip ups = multiply(kernels_, up, i, a.normed.rows, num_tokens, scratch, 1);
      for (int p = 0; p < gates.num_panels; ++p) {
        const Product product = gates.product(p);
        kernels_.silu_mul(product.tile, ups.product(p).tile, num_tokens,
                          static_cast<int>(product.num_rows), a.mlp.values.data() + product.row,
                          a.config.intermediate_size);
      }
      if (quantized)
        kernels_.quantize_rows(a.mlp.rows, num_tokens, gates.panel * kPanelRows / kGroup,
                               gates.num_panels * kPanelRows / kGroup);
    }
  });
}

void CpuBackend::mlp_down(const LayerWeights& weights, const Batch& batch,
                          Activations& activations) {
  CpuActivations& a = cpu_of(activations);
  add_product(kernels_, pool_, panels_of(weights.down), a.mlp.rows, batch.num_tokens(), a);
}

void CpuBackend::sample(Logits& logits, std::span<const SampleRow> rows,
                        std::span<SampledToken> tokens) {
  const auto& memory = static_cast<const CpuLogits&>(logits);
  pool_.run(std::ssize(rows), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const std::span<float> row(memory.row(rows[i].row), static_cast<size_t>(rows[i].num_logits));
      tokens[i] = samplers_[thread].sample(rows[i], row);
    }
  });
}

}  // namespace f1
