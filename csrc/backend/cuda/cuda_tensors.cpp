#include "backend/cuda/cuda_tensors.h"

#include <algorithm>

namespace f1::cuda {
namespace {

size_t product(int64_t rows, int64_t width) {
  return static_cast<size_t>(rows) * static_cast<size_t>(width);
}

}  // namespace

CudaKvCache::CudaKvCache(const Stream& stream, const ModelConfig& config, int num_pages)
    : stream_(stream),
      num_pages_(num_pages),
      layer_stride_(int64_t{2} * config.num_kv_heads * kPageSize * config.head_dim),
      page_stride_(layer_stride_ * config.num_layers),
      memory_(stream, product(num_pages, page_stride_)) {}

F16* CudaKvCache::keys(int layer) const { return memory_.data() + layer * layer_stride_; }

F16* CudaKvCache::values(int layer) const { return keys(layer) + layer_stride_ / 2; }

F16* CudaKvCache::page_at(int page) const {
  F1_CHECK(page >= 0 && page < num_pages_, "page ", page);
  return memory_.data() + page * page_stride_;
}

void CudaKvCache::copy_page(int from, int to) {
  F16* const source = page_at(from);
  F16* const target = page_at(to);
  if (from != to) stream_.copy(target, source, page_bytes());
}

void CudaKvCache::read_page(int page, std::span<std::byte> out) const {
  F1_CHECK(out.size() == page_bytes(), out.size(), " bytes");
  stream_.download(out.data(), page_at(page), out.size());
}

void CudaKvCache::write_page(int page, std::span<const std::byte> bytes) {
  F1_CHECK(bytes.size() == page_bytes(), bytes.size(), " bytes");
  stream_.upload(page_at(page), bytes.data(), bytes.size());
}

CudaLogits::CudaLogits(const Stream& stream, const ModelConfig& config, int max_rows)
    : stream_(stream),
      max_rows_(max_rows),
      vocab_size_(config.vocab_size),
      memory_(stream, product(max_rows, config.vocab_size)) {}

float* CudaLogits::row(int index) const {
  F1_CHECK(index >= 0 && index < max_rows_, "row ", index);
  return memory_.data() + index * vocab_size_;
}

void CudaLogits::read(int index, std::span<float> out) const {
  F1_CHECK(std::ssize(out) <= vocab_size_);
  if (!out.empty()) stream_.download(out.data(), row(index), out.size_bytes());
}

void CudaLogits::write(int index, std::span<const float> values) {
  F1_CHECK(std::ssize(values) <= vocab_size_);
  if (!values.empty()) stream_.upload(row(index), values.data(), values.size_bytes());
}

CudaActivations::CudaActivations(const Stream& stream, const ModelConfig& c, int max_tokens)
    : stream(stream),
      config(c),
      max_tokens_(max_tokens),
      tables(stream, product(max_tokens, 4)),
      mixes(stream, 0),
      mix_weights(stream, 0),
      listed(stream, 0),
      hidden(stream, product(max_tokens, c.hidden_size)),
      query(stream, product(max_tokens, int64_t{c.num_heads} * c.head_dim)),
      new_keys(stream, product(max_tokens, int64_t{c.num_kv_heads} * c.head_dim)),
      new_values(stream, new_keys.size()),
      inv_freq(stream, c.rope_inv_freq.size()),
      cosines(stream, product(max_tokens, c.head_dim / 2)),
      sines(stream, cosines.size()),
      normed(stream, product(max_tokens, padded(c.hidden_size))),
      attended(stream, product(max_tokens, padded(int64_t{c.num_heads} * c.head_dim))),
      mlp(stream, product(max_tokens, padded(c.intermediate_size))),
      final_rows(stream, normed.size()) {
  inv_freq.upload(c.rope_inv_freq);
}

void CudaActivations::upload_batch(const Batch& batch) {
  std::vector<int32_t> joined;
  const auto append = [&](const std::vector<int32_t>& part) {
    joined.insert(joined.end(), part.begin(), part.end());
  };
  append(batch.token_ids);
  append(batch.positions);
  for (const int32_t sequence : batch.sequence_of)
    joined.push_back(batch.page_begin[static_cast<size_t>(sequence)]);
  append(batch.head_tokens);
  append(batch.page_ids);
  num_tokens = batch.token_ids.size();
  num_heads_wanted = batch.head_tokens.size();
  tables.upload_growing(joined);
}

void CudaActivations::upload_mixes(const Batch& batch) {
  std::vector<int32_t> joined = batch.mixed_tokens;
  joined.insert(joined.end(), batch.mix_begin.begin(), batch.mix_begin.end());
  joined.insert(joined.end(), batch.mix_ids.begin(), batch.mix_ids.end());
  mixes.upload_growing(joined);
  mix_weights.upload_growing(batch.mix_weights);
}

const DeviceBuffer<float>* CudaActivations::floats_of(Part part) const {
  if (part == Part::kHidden) return &hidden;
  return part == Part::kQuery ? &query : nullptr;
}

CudaActivations::Rows CudaActivations::rows_of(Part part) const {
  if (part == Part::kAttended) return {&attended, int64_t{config.num_heads} * config.head_dim};
  if (part == Part::kMlp) return {&mlp, config.intermediate_size};
  F1_CHECK(part == Part::kFinal, "part ", static_cast<int>(part));
  return {&final_rows, config.hidden_size};
}

void CudaActivations::read(Part part, std::span<float> out) const {
  if (const auto* floats = floats_of(part)) {
    std::ranges::copy(floats->download(0, out.size()), out.begin());
    return;
  }
  const auto [buffer, width] = rows_of(part);
  const std::vector<Bf16> values = buffer->download(0, buffer->size());
  F1_CHECK(std::ssize(out) <= max_tokens_ * width);
  for (int64_t i = 0; i < std::ssize(out); ++i)
    out[i] = to_float(values[static_cast<size_t>(i / width * padded(width) + i % width)]);
}

void CudaActivations::write(Part part, std::span<const float> values) {
  if (const auto* floats = floats_of(part)) return floats->upload(values);
  const auto [buffer, width] = rows_of(part);
  F1_CHECK(std::ssize(values) <= max_tokens_ * width);
  std::vector<Bf16> rows = buffer->download(0, buffer->size());
  for (int64_t i = 0; i < std::ssize(values); ++i)
    rows[static_cast<size_t>(i / width * padded(width) + i % width)] = to_bf16(values[i]);
  buffer->upload(rows);
}

}  // namespace f1::cuda
