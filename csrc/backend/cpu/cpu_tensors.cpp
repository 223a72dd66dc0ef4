#include "backend/cpu/cpu_tensors.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace f1::cpu {
namespace {

// Floats of one strip's products, for any number of tokens up to max_tokens.
int64_t strip_floats(int64_t max_tokens) {
  return std::max(strip_panels(max_tokens) * panel_stride(max_tokens),
                  strip_panels(kFewTokens) * panel_stride(kFewTokens));
}

// So that no two threads' scratch shares a cache line.
size_t whole_lines(size_t num_floats) { return (num_floats + 15) / 16 * 16; }

}  // namespace

CpuKvCache::CpuKvCache(const ModelConfig& config, int num_pages)
    : num_layers_(config.num_layers),
      num_pages_(num_pages),
      num_groups_(config.num_kv_heads),
      head_dim_(config.head_dim),
      layer_stride_(2 * num_groups_ * head_dim_ * kPageSize),
      page_stride_(layer_stride_ * num_layers_),
      memory_(static_cast<size_t>(page_stride_ * num_pages)) {}

uint16_t* CpuKvCache::keys(int layer, int group) const {
  return memory_.data() + layer * layer_stride_ + group * 2 * head_dim_ * kPageSize;
}

uint16_t* CpuKvCache::values(int layer, int group) const {
  return keys(layer, group) + head_dim_ * kPageSize;
}

std::span<std::byte> CpuKvCache::page(int index) const {
  F1_CHECK(index >= 0 && index < num_pages_, "page ", index);
  return std::as_writable_bytes(
      std::span(memory_.data() + index * page_stride_, static_cast<size_t>(page_stride_)));
}

void CpuKvCache::copy_page(int from, int to) { std::ranges::copy(page(from), page(to).begin()); }

void CpuKvCache::read_page(int index, std::span<std::byte> out) const {
  F1_CHECK(out.size() == page(index).size(), out.size(), " bytes");
  std::ranges::copy(page(index), out.begin());
}

void CpuKvCache::write_page(int index, std::span<const std::byte> bytes) {
  F1_CHECK(bytes.size() == page(index).size(), bytes.size(), " bytes");
  std::ranges::copy(bytes, page(index).begin());
}

CpuLogits::CpuLogits(const ModelConfig& config, int max_rows)
    : max_rows_(max_rows),
      vocab_size_(config.vocab_size),
      memory_(static_cast<size_t>(max_rows * vocab_size_)) {}

void CpuLogits::read(int index, std::span<float> out) const {
  F1_CHECK(index >= 0 && index < max_rows_ && std::ssize(out) <= vocab_size_);
  std::copy_n(row(index), out.size(), out.begin());
}

void CpuLogits::write(int index, std::span<const float> values) {
  F1_CHECK(index >= 0 && index < max_rows_ && std::ssize(values) <= vocab_size_);
  std::ranges::copy(values, row(index));
}

OwnedRows::OwnedRows(int64_t max_tokens, int64_t inputs)
    : values(static_cast<size_t>(max_tokens * inputs)),
      groups(static_cast<size_t>(num_tiles(max_tokens) * (inputs / kGroup))),
      rows{inputs, values.data(), groups.data()} {}

CpuActivations::CpuActivations(const ModelConfig& config, const Kernels& kernels,
                               int64_t max_tokens, int num_threads)
    : config(config),
      kernels(kernels),
      max_tokens_(static_cast<int>(max_tokens)),
      hidden(static_cast<size_t>(max_tokens * config.hidden_size)),
      normed(max_tokens, config.hidden_size),
      query(static_cast<size_t>(max_tokens * config.num_heads * config.head_dim)),
      new_keys(static_cast<size_t>(max_tokens * config.num_kv_heads * config.head_dim)),
      new_values(new_keys.size()),
      attended(max_tokens, int64_t{config.num_heads} * config.head_dim),
      mlp(max_tokens, config.intermediate_size),
      final_values(static_cast<size_t>(max_tokens * config.hidden_size)),
      head_tiles(static_cast<size_t>((num_tiles(max_tokens) + max_tokens) *
                                     (config.hidden_size / kGroup))),
      cosines(static_cast<size_t>(max_tokens * config.head_dim / 2)),
      sines(cosines.size()),
      scratch_size(
          whole_lines(kPanelScratch / sizeof(float) +
                      static_cast<size_t>(2 * strip_floats(max_tokens) + config.hidden_size))),
      scratch(static_cast<size_t>(num_threads) * scratch_size) {}

ThreadScratch CpuActivations::thread_scratch(int thread) const {
  float* begin = scratch.data() + static_cast<size_t>(thread) * scratch_size;
  float* products = begin + kPanelScratch / sizeof(float);
  const int64_t size = strip_floats(max_tokens_);
  float* row = products + 2 * size;
  return {reinterpret_cast<std::byte*>(begin), {products, products + size}, row};
}

std::span<float> CpuActivations::part(Part part) const {
  switch (part) {
    case Part::kHidden:
      return {hidden.data(), hidden.size()};
    case Part::kQuery:
      return {query.data(), query.size()};
    case Part::kAttended:
      return {attended.values.data(), attended.values.size()};
    case Part::kMlp:
      return {mlp.values.data(), mlp.values.size()};
    case Part::kFinal:
      return {final_values.data(), final_values.size()};
  }
  F1_CHECK(false, "part ", static_cast<int>(part));
}

float* CpuActivations::partials(int64_t size) {
  if (partial_sums.size() < static_cast<size_t>(size))
    partial_sums = Buffer<float>(static_cast<size_t>(size));
  return partial_sums.data();
}

void CpuActivations::read(Part which, std::span<float> out) const {
  const std::span<float> source = part(which);
  F1_CHECK(out.size() <= source.size());
  std::copy_n(source.begin(), out.size(), out.begin());
}

void CpuActivations::write(Part which, std::span<const float> values) {
  const std::span<float> target = part(which);
  F1_CHECK(values.size() <= target.size());
  std::copy(values.begin(), values.end(), target.begin());
  if (which != Part::kMlp || mlp.rows.inputs % kGroup != 0) return;
  kernels.quantize_rows(mlp.rows, max_tokens_, 0, mlp.rows.inputs / kGroup);  // as mlp_up() does
}

}  // namespace f1::cpu
