// Sampling on the host: all of it for the CPU backend, what is not greedy for the others.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/sampling.h"

namespace f1 {

// Samples row by row. Keeps scratch between rows; each thread has its own.
class Sampler {
 public:
  // `logits`: the row's num_logits. Illegal ones become -inf.
  SampledToken sample(const SampleRow& row, std::span<float> logits);

  // What was `sampled` of all V logits, and what the `watched` tokens had. Illegal ones become -inf.
  Reading read(std::span<float> logits, const int32_t* mask, int32_t sampled,
               std::span<const int32_t> watched);

  // What a soft step makes of all V logits: the mix, empty where no logit is a finite number, and
  // the entropy. The noise is a function of (seed, choice, position, token).
  std::pair<Mix, float> mix(std::span<const float> logits, const SoftParams& params, uint64_t seed,
                            int choice, int position);

 private:
  struct Candidate {
    float weight;
    int32_t index;
  };

  struct Block {
    double sum = 0;
    float max = 0;
  };
  struct Bin {
    double mass = 0;
    size_t count = 0;
  };

  void adjust(const SampleRow& row, std::span<float> logits);
  int draw(std::span<const float> logits, const SamplingParams& params, double uniform);
  float log_sum(std::span<const float> logits);
  double weigh(std::span<const float> logits, float temperature);
  double cut_to_count(size_t count);
  double cut_to_mass(double total, double mass);
  double cut(size_t count, double mass, float floor);
  void collect(float floor);
  double keep(Candidate last);
  int find(double target) const;

  std::vector<std::pair<int32_t, float>> replaced_;  // (index, logit before adjust())
  std::vector<float> weights_;                       // exp((logit - peak) / temperature), or 0: cut
  std::vector<Block> blocks_;                        // of weights_, kBlock at a time
  std::vector<Bin> bins_;
  std::vector<Candidate> candidates_;
};

}  // namespace f1
