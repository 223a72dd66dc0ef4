// The passes over all V logits are written as loops over fixed blocks, which
// compilers turn into vector code and which add up in one order on every machine.
#include "backend/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace f1 {
namespace {

constexpr int kBlock = 256;
constexpr int kLanes = 8;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sixteen bins for each power of two, up to that of 1.
int bin_of(float weight) { return std::bit_cast<int32_t>(weight) >> 19; }
constexpr int kNumBins = (0x3F800000 >> 19) + 1;

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
double uniform_of(uint64_t seed, int choice, int position, uint32_t token = 0, uint32_t what = 0) {
  const auto words =
      philox({static_cast<uint32_t>(position), static_cast<uint32_t>(choice), token, what}, seed);
  return static_cast<double>((uint64_t{words[0]} << 32 | words[1]) >> 11) * 0x1p-53;
}

double gumbel_of(uint64_t seed, int choice, int position, int32_t token_id) {
  const uint32_t token = static_cast<uint32_t>(token_id);
  return -std::log(-std::log(uniform_of(seed, choice, position, token, 1) + 0x1p-54));
}

}  // namespace

SampledToken Sampler::sample(const SampleRow& row, std::span<float> logits) {
  const SamplingParams& params = *row.params;
  const bool wants_masked_mass = params.masked_mass && row.mask != nullptr;
  const float log_of_all = wants_masked_mass ? log_sum(logits) : 0;
  if (row.mask != nullptr) hide_illegal(logits, row.mask);

  SampledToken sampled;
  float log_total = 0;
  if (params.num_logprobs >= 0) {
    if (argmax(logits) < 0) return {};
    log_total = log_sum(logits);
    if (wants_masked_mass)
      sampled.masked_mass = std::max(-std::expm1(log_total - log_of_all), 0.0f);
    sampled.top = largest(logits, params.num_logprobs);
    for (auto& [index, value] : sampled.top) {
      index = token_at(row, index);
      value -= log_total;
    }
  }

  adjust(row, logits);
  const int index = params.temperature == 0
                        ? argmax(logits)
                        : draw(logits, params, uniform_of(params.seed, row.choice, row.position));
  for (; !replaced_.empty(); replaced_.pop_back()) {
    logits[replaced_.back().first] = replaced_.back().second;
  }
  if (index < 0) return {};
  sampled.token_id = token_at(row, index);
  if (params.num_logprobs >= 0) sampled.logprob = logits[index] - log_total;
  return sampled;
}

Reading Sampler::read(std::span<float> logits, const int32_t* mask, int32_t sampled,
                      std::span<const int32_t> watched) {
  const float log_of_all = log_sum(logits);
  if (mask != nullptr) hide_illegal(logits, mask);
  const float log_total = log_sum(logits);
  Reading reading;
  reading.logprob = logits[sampled] - log_total;
  for (int32_t token_id : watched) reading.watched.push_back(logits[token_id] - log_total);
  reading.masked_mass = std::max(0.0f, -std::expm1(log_total - log_of_all));
  return reading;
}

std::pair<Mix, float> Sampler::mix(std::span<const float> logits, const SoftParams& params,
                                   uint64_t seed, int choice, int position) {
  const double total = weigh(logits, params.temperature);
  if (!(total > 0)) return {};
  const float likeliest = logits[static_cast<size_t>(argmax(logits))];
  double mean = 0;  // of log weight
  for (size_t i = 0; i < logits.size(); ++i) {
    if (weights_[i] > 0) mean += weights_[i] * ((logits[i] - likeliest) / params.temperature);
  }
  const float entropy = static_cast<float>(std::log(total) - mean / total);

  Mix mix;
  std::vector<double> scores;
  for (const auto& [token_id, logit] : largest(logits, static_cast<size_t>(params.top_k))) {
    const double noise = params.noise > 0 ? gumbel_of(seed, choice, position, token_id) : 0;
    mix.token_ids.push_back(token_id);
    scores.push_back(double{logit} / params.temperature + params.noise * noise);
  }
  const double peak = *std::ranges::max_element(scores);
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - peak);
  for (const double score : scores) mix.weights.push_back(static_cast<float>(score / sum));
  return {std::move(mix), entropy};
}

void Sampler::adjust(const SampleRow& row, std::span<float> logits) {
  const SamplingParams& params = *row.params;
  const auto replace = [&](int32_t token_id, auto changed) {
    const int index = index_of(row, token_id);
    if (index < 0) return;
    replaced_.emplace_back(index, logits[index]);
    logits[index] = changed(logits[index]);
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

// Index of the token that the point `uniform` of the distribution falls on, or -1.
int Sampler::draw(std::span<const float> logits, const SamplingParams& params, double uniform) {
  double total = weigh(logits, params.temperature);
  if (!(total > 0)) return -1;
  if (params.top_k > 0) total = cut_to_count(static_cast<size_t>(params.top_k));
  if (params.top_p < 1) total = cut_to_mass(total, params.top_p * total);
  if (params.min_p > 0) total = keep({params.min_p, std::numeric_limits<int32_t>::max()});
  return find(uniform * total);
}

// log of the sum of e^logit.
float Sampler::log_sum(std::span<const float> logits) {
  const int peak = argmax(logits);
  return peak < 0 ? -kInfinity : logits[peak] + static_cast<float>(std::log(weigh(logits, 1)));
}

// Fills weights_ and blocks_; the likeliest token weighs 1. Returns the sum, 0 where no logit
// is a finite number.
double Sampler::weigh(std::span<const float> logits, float temperature) {
  weights_.resize(logits.size());
  blocks_.clear();
  const int best = argmax(logits);
  if (best < 0) return 0;
  const float peak = logits[best];
  double total = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min<size_t>(begin + kBlock, logits.size());
    for (size_t i = begin; i < end; ++i) {
      weights_[i] = exp_nonpositive((logits[i] - peak) / temperature);
    }
    const std::span<const float> weights = std::span(weights_).subspan(begin, end - begin);
    blocks_.push_back({.sum = sum_of(weights), .max = max_of(weights)});
    total += blocks_.back().sum;
  }
  return total;
}

double Sampler::cut_to_count(size_t count) {
  // No need to look at lighter tokens: each of the `count` blocks with the heaviest token has one
  // as heavy as this.
  float floor = 0;
  if (count <= blocks_.size()) {
    std::vector<Block> blocks = blocks_;
    const auto nth = blocks.begin() + static_cast<ptrdiff_t>(count - 1);
    std::ranges::nth_element(blocks, nth, std::greater(), &Block::max);
    floor = nth->max;
  }
  return cut(count, std::numeric_limits<double>::infinity(), floor);
}

double Sampler::cut_to_mass(double total, double mass) {
  // Nor here: together they weigh less than what is cut. (By one in a hundred, for rounding.)
  const double floor = (total - mass) / static_cast<double>(weights_.size()) * 0.99;
  return cut(weights_.size(), mass, static_cast<float>(floor));
}

// Keeps the heaviest tokens until they are `count` or weigh `mass`; all of those weigh `floor` or
// more. Sorting 150,000 tokens for that would cost more than a layer: they are counted into bins by
// the upper bits of their weights, and only the bin where the limit is met gets sorted.
double Sampler::cut(size_t count, double mass, float floor) {
  collect(floor);
  bins_.assign(kNumBins, {});
  for (const Candidate& candidate : candidates_) {
    Bin& bin = bins_[bin_of(candidate.weight)];
    bin.mass += candidate.weight;
    ++bin.count;
  }
  int last_bin = kNumBins - 1;
  for (; last_bin > 0; --last_bin) {
    const Bin& bin = bins_[last_bin];
    if (bin.count >= count || bin.mass >= mass) break;
    count -= bin.count;
    mass -= bin.mass;
  }
  std::erase_if(candidates_, [&](const Candidate& c) { return bin_of(c.weight) != last_bin; });
  std::ranges::sort(candidates_, [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.index < b.index;
  });
  Candidate last{0, 0};  // where the limit is never met: all are kept
  for (const Candidate& candidate : candidates_) {
    last = candidate;
    mass -= candidate.weight;
    if (--count == 0 || mass <= 0) break;
  }
  return keep(last);
}

// Fills candidates_ with the tokens that weigh `floor` or more, and something.
void Sampler::collect(float floor) {
  candidates_.resize(weights_.size());
  size_t size = 0;
  for (size_t block = 0; block < blocks_.size(); ++block) {
    if (blocks_[block].max < floor) continue;
    const size_t end = std::min(weights_.size(), (block + 1) * kBlock);
    for (size_t i = block * kBlock; i < end; ++i) {
      candidates_[size] = {weights_[i], static_cast<int32_t>(i)};
      size += (weights_[i] >= floor) & (weights_[i] > 0);  // a branch would be taken at random
    }
  }
  candidates_.resize(size);
}

// Lets tokens lighter than `last`, or as heavy and after it, weigh nothing. Returns the new total.
double Sampler::keep(Candidate last) {
  double total = 0;
  for (size_t block = 0; block < blocks_.size(); ++block) {
    const size_t begin = block * kBlock;
    const std::span<float> weights =
        std::span(weights_).subspan(begin, std::min<size_t>(kBlock, weights_.size() - begin));
    if (blocks_[block].max < last.weight) {
      std::ranges::fill(weights, 0.0f);
      blocks_[block] = {};
      continue;
    }
    for (float& weight : weights) weight = weight < last.weight ? 0 : weight;
    for (size_t i = begin; i < begin + weights.size(); ++i) {
      if (weights_[i] == last.weight && static_cast<int64_t>(i) > last.index) weights_[i] = 0;
    }
    blocks_[block] = {.sum = sum_of(weights), .max = max_of(weights)};
    total += blocks_[block].sum;
  }
  return total;
}

// The token where the weights, added up in the order of ids, pass `target`.
int Sampler::find(double target) const {
  size_t block = 0;
  while (block + 1 < blocks_.size() && target >= blocks_[block].sum) target -= blocks_[block++].sum;
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

}  // namespace f1
