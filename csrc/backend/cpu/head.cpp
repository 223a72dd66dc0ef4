// The CPU backend's last stages: from hidden states to logits.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "core/error.h"

namespace f1 {
namespace {

using namespace cpu;

constexpr int64_t kChunk = 512;       // rows of the head that a thread takes at a time
constexpr int64_t kListedChunk = 64;  // listed ones

const CpuActivations& cpu_of(const Activations& activations) {
  return static_cast<const CpuActivations&>(activations);
}

}  // namespace

TensorHandle CpuBackend::pack_head(const Tensor& tensor) {
  auto head = std::make_unique<HeadTensor>();
  head->matrix = head_layout(tensor);
  if (head->matrix.form == HeadForm::kFloats) return head;
  head->matrix.data = packed_.find(head->num_bytes());
  if (head->matrix.data) return head;
  std::byte* memory = packed_.allocate(head->num_bytes());
  head->matrix.data = memory;
  pool_.run(tensor.rows, kChunk, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) pack_head_row(head->matrix, row, memory);
  });
  return head;
}

void CpuBackend::final_norm(const DeviceTensor& norm, const Batch& batch,
                            Activations& activations) {
  const CpuActivations& a = cpu_of(activations);
  const float* weight = static_cast<const VectorTensor&>(norm).values.data();
  const int64_t width = a.config.hidden_size;
  for (size_t s = 0; s < batch.head_tokens.size(); ++s)
    kernels_.rms_norm(a.hidden.data() + batch.head_tokens[s] * width, weight, width,
                      a.config.norm_eps, a.final_row(static_cast<int64_t>(s)));
}

void CpuBackend::head(const DeviceTensor& head, std::span<const HeadRow> rows,
                      Activations& activations, Logits& logits) {
  const CpuActivations& a = cpu_of(activations);
  const HeadMatrix& matrix = static_cast<const HeadTensor&>(head).matrix;
  const auto& memory = static_cast<const CpuLogits&>(logits);
  F1_CHECK(std::ssize(rows) <= std::min(a.max_tokens(), memory.max_rows()), rows.size(), " rows");
  if (matrix.form == HeadForm::kFloats) return float_head(matrix.tensor, rows, a, memory);

  // Rows that want all of V meet the head together; each of the others has a tile of its own.
  std::vector<float*> full;
  struct Listed {
    std::span<const int32_t> tokens;
    const TileGroup* x;
    float* out;
  };
  std::vector<Listed> listed;
  const int64_t num_groups = matrix.tensor.inputs / kGroup;
  const auto quantize = [&](const HeadRow& row, int64_t tile, int64_t slot) {
    kernels_.quantize(a.final_row(row.head_index), num_groups, static_cast<int>(slot),
                      a.head_tile(tile));
  };
  for (size_t i = 0; i < rows.size(); ++i) {
    float* out = memory.row(static_cast<int>(i));
    if (rows[i].listed_tokens.empty()) {
      quantize(rows[i], std::ssize(full) / kTile, std::ssize(full) % kTile);
      full.push_back(out);
    } else {
      const int64_t tile = num_tiles(a.max_tokens()) + std::ssize(listed);
      quantize(rows[i], tile, 0);
      listed.push_back({rows[i].listed_tokens, a.head_tile(tile), out});
    }
  }
  for (const Listed& row : listed) {
    pool_.run(std::ssize(row.tokens), kListedChunk, [&](int64_t begin, int64_t end, int) {
      kernels_.head_dot_listed(matrix, row.tokens.data() + begin, end - begin, row.x,
                               row.out + begin);
    });
  }
  if (full.empty()) return;
  pool_.run(matrix.tensor.rows, kChunk, [&](int64_t begin, int64_t end, int thread) {
    const ThreadScratch scratch = a.thread_scratch(thread);
    kernels_.head_dot(matrix, begin, end, a.head_tile(0), std::ssize(full), scratch.products[0],
                      full.data());
  });
}

// The rows that want all of V share the decoding of the head's rows.
void CpuBackend::float_head(const Tensor& table, std::span<const HeadRow> rows,
                            const CpuActivations& a, const CpuLogits& logits) {
  const int64_t width = table.inputs;
  std::vector<int> full;
  for (int i = 0; i < static_cast<int>(rows.size()); ++i) {
    const std::span<const int32_t> listed = rows[i].listed_tokens;
    if (listed.empty()) {
      full.push_back(i);
      continue;
    }
    pool_.run(std::ssize(listed), kListedChunk, [&](int64_t begin, int64_t end, int thread) {
      float* row = a.thread_scratch(thread).row;
      for (int64_t j = begin; j < end; ++j) {
        kernels_.decode_row(table, listed[j], row);
        logits.row(i)[j] = kernels_.dot(row, a.final_row(rows[i].head_index), width);
      }
    });
  }
  if (full.empty()) return;
  pool_.run(table.rows, kChunk, [&](int64_t begin, int64_t end, int thread) {
    float* row = a.thread_scratch(thread).row;
    for (int64_t token = begin; token < end; ++token) {
      kernels_.decode_row(table, token, row);
      for (const int i : full)
        logits.row(i)[token] = kernels_.dot(row, a.final_row(rows[i].head_index), width);
    }
  });
}

}  // namespace f1
