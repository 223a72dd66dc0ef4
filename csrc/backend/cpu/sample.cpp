// Sampling on the host. The passes over all V logits are written as loops over fixed blocks, which
// compilers turn into vector code and which add up in one order on every machine.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/sampler.h"

namespace f1 {

void CpuBackend::sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) {
  pool_.run(std::ssize(rows), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) tokens[i] = samplers_[thread].sample(rows[i]);
  });
}

namespace cpu {
namespace {

constexpr int kBlock = 256;
constexpr int kLanes = 8;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// e^x for x <= 0, within 2 units in the last place; 0 below -87 and for NaN. Cephes' reduction and
// polynomial, here instead of libm because it vectorises and gives the same bits everywhere.
inline float exp_nonpositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer below
  const float clamped = x > -87.0f ? x : -87.0f;
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const float power = std::bit_cast<float>((exponent + 127) << 23);
  const int32_t keep = -static_cast<int32_t>(x > -87.0f);  // a branch would not vectorise
  return std::bit_cast<float>(std::bit_cast<int32_t>(p * power) & keep);
}

float max_of(std::span<const float> block) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -kInfinity);
  size_t i = 0;
  for (; i + kLanes <= block.size(); i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] = block[i + j] > lanes[j] ? block[i + j] : lanes[j];
  }
  for (; i < block.size(); ++i) lanes[0] = block[i] > lanes[0] ? block[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

double sum_of(std::span<const float> block) {
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= block.size(); i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += block[i + j];
  }
  for (; i < block.size(); ++i) lanes[0] += block[i];
  double sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

// Index of the first largest logit, or -1 where none is a finite number.
int argmax(std::span<const float> logits) {
  float best = -kInfinity;
  size_t best_begin = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t size = std::min<size_t>(kBlock, logits.size() - begin);
    const float block_max = max_of(logits.subspan(begin, size));
    if (block_max > best) {
      best = block_max;
      best_begin = begin;
    }
  }
  if (!std::isfinite(best)) return -1;
  return static_cast<int>(std::find(logits.begin() + best_begin, logits.end(), best) -
                          logits.begin());
}

void hide_illegal(std::span<float> logits, const int32_t* mask) {
  for (size_t begin = 0; begin < logits.size(); begin += 32) {
    const uint32_t legal = static_cast<uint32_t>(mask[begin / 32]);
    if (legal == ~0u) continue;
    const size_t size = std::min<size_t>(32, logits.size() - begin);
    for (size_t i = 0; i < size; ++i) {
      if (!(legal >> i & 1)) logits[begin + i] = -kInfinity;
    }
  }
}

// The n largest logits: (index, logit), largest first, the lower index among equals.
std::vector<std::pair<int32_t, float>> largest(std::span<const float> logits, size_t n) {
  std::vector<std::pair<int32_t, float>> top;
  if (n == 0) return top;
  const auto before = [](const auto& a, const auto& b) { return a.second > b.second; };
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > (top.size() < n ? -kInfinity : top.back().second))) continue;
    const std::pair<int32_t, float> entry{static_cast<int32_t>(i), logits[i]};
    if (top.size() == n) top.pop_back();
    top.insert(std::upper_bound(top.begin(), top.end(), entry, before), entry);
  }
  return top;
}

int32_t token_at(const SampleRow& row, int index) {
  return row.listed_tokens.empty() ? index : row.listed_tokens[index];
}

// Where the token's logit stands in the row, or -1 where it is not listed.
int index_of(const SampleRow& row, int32_t token_id) {
  if (row.listed_tokens.empty()) return token_id;
  const auto found = std::ranges::lower_bound(row.listed_tokens, token_id);
  const bool is_listed = found != row.listed_tokens.end() && *found == token_id;
  return is_listed ? static_cast<int>(found - row.listed_tokens.begin()) : -1;
}

// In [0, 1), from 53 random bits.
double uniform_of(uint64_t seed, int choice, int position) {
  const auto words =
      philox({static_cast<uint32_t>(position), static_cast<uint32_t>(choice), 0, 0}, seed);
  return static_cast<double>((uint64_t{words[0]} << 32 | words[1]) >> 11) * 0x1p-53;
}

}  // namespace

SampledToken Sampler::sample(const SampleRow& row) {
  const SamplingParams& params = *row.params;
  if (row.mask != nullptr) hide_illegal(row.logits, row.mask);

  SampledToken sampled;
  float log_total = 0;
  if (params.num_logprobs >= 0) {
    const int peak = argmax(row.logits);
    if (peak < 0) return {};
    log_total = row.logits[peak] + static_cast<float>(std::log(weigh(row.logits, 1)));
    sampled.top = largest(row.logits, params.num_logprobs);
    for (auto& [index, value] : sampled.top) {
      index = token_at(row, index);
      value -= log_total;
    }
  }

  adjust(row);
  const int index =
      params.temperature == 0
          ? argmax(row.logits)
          : draw(row.logits, params, uniform_of(params.seed, row.choice, row.position));
  for (; !replaced_.empty(); replaced_.pop_back()) {
    row.logits[replaced_.back().first] = replaced_.back().second;
  }
  if (index < 0) return {};
  sampled.token_id = token_at(row, index);
  if (params.num_logprobs >= 0) sampled.logprob = row.logits[index] - log_total;
  return sampled;
}

void Sampler::adjust(const SampleRow& row) {
  const SamplingParams& params = *row.params;
  const auto replace = [&](int32_t token_id, auto changed) {
    const int index = index_of(row, token_id);
    if (index < 0) return;
    replaced_.emplace_back(index, row.logits[index]);
    row.logits[index] = changed(row.logits[index]);
  };
  for (const auto& [token_id, bias] : params.logit_bias) {
    replace(token_id, [&](float logit) { return logit + bias; });
  }
  if (!params.has_penalties()) return;
  for (const TokenCount& count : row.seen) {
    replace(count.token_id, [&](float logit) {
      const float r = params.repetition_penalty;
      const float presence = count.num_sampled > 0 ? params.presence_penalty : 0;
      return (logit > 0 ? logit / r : logit * r) - presence -
             params.frequency_penalty * static_cast<float>(count.num_sampled);
    });
  }
}

// Index of the token that the point `uniform` of the distribution falls on.
int Sampler::draw(std::span<const float> logits, const SamplingParams& params, double uniform) {
  const double total = weigh(logits, params.temperature);
  if (!(total > 0)) return -1;
  const bool is_cut = params.top_k > 0 || params.top_p < 1 || params.min_p > 0;
  return is_cut ? draw_cut(params, total, uniform) : draw_any(total * uniform);
}

// Fills weights_ and block_sums_; the likeliest token weighs 1. Returns the sum, 0 where no logit
// is a finite number.
double Sampler::weigh(std::span<const float> logits, float temperature) {
  weights_.resize(logits.size());
  block_sums_.clear();
  const int best = argmax(logits);
  if (best < 0) return 0;
  const float peak = logits[best];
  double total = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min<size_t>(begin + kBlock, logits.size());
    for (size_t i = begin; i < end; ++i) {
      weights_[i] = exp_nonpositive((logits[i] - peak) / temperature);
    }
    block_sums_.push_back(sum_of(std::span(weights_).subspan(begin, end - begin)));
    total += block_sums_.back();
  }
  return total;
}

int Sampler::draw_any(double target) const {
  size_t block = 0;
  while (block + 1 < block_sums_.size() && target >= block_sums_[block]) {
    target -= block_sums_[block++];
  }
  const size_t end = std::min(weights_.size(), (block + 1) * kBlock);
  int last = -1;
  for (size_t i = block * kBlock; i < end; ++i) {
    if (weights_[i] == 0) continue;
    last = static_cast<int>(i);
    if (target < weights_[i]) return last;
    target -= weights_[i];
  }
  // Rounding carried the target past the block's end: its last token, or the one before the block.
  for (size_t i = block * kBlock; last < 0 && i-- > 0;) {
    if (weights_[i] > 0) last = static_cast<int>(i);
  }
  return last;
}

int Sampler::draw_cut(const SamplingParams& params, double total, double uniform) {
  collect_likeliest(params, total);
  const auto heavier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.index < b.index;
  };
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < candidates_.size()) {
    const auto end = candidates_.begin() + params.top_k;
    std::nth_element(candidates_.begin(), end, candidates_.end(), heavier);
    candidates_.erase(end, candidates_.end());
  }
  std::sort(candidates_.begin(), candidates_.end(), heavier);
  if (params.top_k > 0) {
    total = 0;
    for (const Candidate& candidate : candidates_) total += candidate.weight;
  }

  double kept = 0;  // the mass of the first num_kept
  size_t num_kept = 0;
  for (const Candidate& candidate : candidates_) {
    const bool outside_top_p = params.top_p < 1 && kept >= params.top_p * total;
    if (num_kept > 0 && (outside_top_p || candidate.weight < params.min_p)) break;
    kept += candidate.weight;
    ++num_kept;
  }
  double target = uniform * kept;
  for (size_t i = 0; i + 1 < num_kept; ++i) {
    if (target < candidates_[i].weight) return candidates_[i].index;
    target -= candidates_[i].weight;
  }
  return candidates_[num_kept - 1].index;
}

// Sorting 150,000 tokens to keep a few would cost more than a layer. So: collect those within a
// factor of the likeliest, and widen the factor until the cuts cannot reach beyond.
void Sampler::collect_likeliest(const SamplingParams& params, double total) {
  const size_t wanted = static_cast<size_t>(params.top_k);
  for (float least = 1.0f / 16;; least = least > 1e-15f ? least * least : 0) {
    candidates_.clear();
    double mass = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (i % kBlock == 0 && block_sums_[i / kBlock] < least) {
        i += kBlock - 1;  // none of the block weighs enough
      } else if (weights_[i] >= least && weights_[i] > 0) {
        candidates_.push_back({weights_[i], static_cast<int32_t>(i)});
        mass += weights_[i];
      }
    }
    const bool is_enough = wanted > 0 ? candidates_.size() >= wanted
                                      : least <= params.min_p || mass >= params.top_p * total;
    if (is_enough || least == 0) return;
  }
}

}  // namespace cpu
}  // namespace f1
