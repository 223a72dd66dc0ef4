// The sampler of the CPU backend.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/sampling.h"

namespace f1::cpu {

// Samples row by row. Keeps scratch between rows; each thread has its own.
class Sampler {
 public:
  SampledToken sample(const SampleRow& row);

 private:
  struct Candidate {
    float weight;
    int32_t index;
  };

  void adjust(const SampleRow& row);
  int draw(std::span<const float> logits, const SamplingParams& params, double uniform);
  double weigh(std::span<const float> logits, float temperature);
  int draw_any(double target) const;
  int draw_cut(const SamplingParams& params, double total, double uniform);
  void collect_likeliest(const SamplingParams& params, double total);

  std::vector<std::pair<int32_t, float>> replaced_;  // (index, logit before adjust())
  std::vector<float> weights_;                       // exp((logit - peak) / temperature)
  std::vector<double> block_sums_;                   // of weights_, kBlock at a time
  std::vector<Candidate> candidates_;
};

}  // namespace f1::cpu
