// How a row of logits becomes a token. The order is fixed:
//
//   legal tokens only -> logit bias -> penalties -> temperature -> top-k -> top-p -> min-p -> draw
//
// Bias and penalties speak about logits, so they come before the temperature that rescales them. Of
// the three cuts the one that ignores probabilities (top-k) is first and the one relative to the
// likeliest token (min-p) last; each sees the distribution the one before left, renormalised.
// Log-probabilities are the model's own over the legal tokens: before bias, penalties, temperature.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace f1 {

struct SamplingParams {
  float temperature = 0;  // 0: greedy, the lowest id among equals
  int top_k = 0;          // 0: all
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;  // of tokens in the prompt or sampled (Keskar et al. 2019)
  float presence_penalty = 0;    // once for a token that was sampled
  float frequency_penalty = 0;   // for each time it was sampled
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token, added to its logit)
  int num_logprobs = -1;     // -1: none; 0: of the sampled token; n: of the n likeliest too
  bool masked_mass = false;  // with log-probabilities: of what the mask took, too; costs all of V

  bool has_penalties() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0;
  }
};

// Throws InvalidArgument naming the field that is out of range or not a finite number.
void check_sampling(const SamplingParams& params, int vocab_size);

// Soft thinking (Zhang et al. 2025, arXiv:2505.15778): before it answers a sequence takes steps that
// sample nothing. What the model would say next goes back in as a mix of the likeliest tokens'
// embeddings, softmax(logits / temperature + noise * Gumbel). Without noise a model follows the
// heaviest of them as if it had been sampled (Wu et al. 2025, arXiv:2508.03440). The end comes
// after num_steps, or before ("cold") where the entropy of softmax(logits / temperature) is below
// cold_entropy, in nats, cold_steps times running.
struct SoftParams {
  int num_steps = 0;  // at most; 0: none are taken, and the rest means nothing
  int position = 0;   // how many tokens of the request stand before them
  int top_k = 8;
  float temperature = 1;
  float noise = 0;
  float cold_entropy = 0;
  int cold_steps = 0;  // 0: they are all taken
};

// Throws InvalidArgument naming the field that is out of range or not a finite number.
void check_soft(const SoftParams& params, int num_tokens, int vocab_size);

// What stands in a token's place: rows of the embedding and their weights, which make 1 together.
struct Mix {
  std::vector<int32_t> token_ids;
  std::vector<float> weights;
};

// A token that occurred in the sequence, and how often it was sampled (0: only in the prompt).
struct TokenCount {
  int32_t token_id = 0;
  int32_t num_sampled = 0;
};

struct SampleRow {
  int row = 0;                             // of the Logits; its logits are lost
  int num_logits = 0;                      // V, or L where tokens are listed
  std::span<const int32_t> listed_tokens;  // [L], ascending, all legal; empty: all V
  const int32_t* mask = nullptr;           // [ceil(V / 32)], bit set = legal; for full rows only
  const SamplingParams* params = nullptr;
  std::span<const TokenCount> seen;  // ascending by token; needed only where has_penalties()
  int choice = 0;                    // of a request decoded n times
  int position = 0;                  // where in the sequence the token will stand
};

struct SampledToken {
  int32_t token_id = -1;  // -1: no logit was a finite number
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // (token, logprob), likeliest first
  float masked_mass = 0;  // how likely all tokens that were not legal were together, if asked for
};

// How likely some tokens were where one was sampled: natural logarithms, among the legal.
struct Reading {
  float logprob = 0;           // of the token that was sampled
  std::vector<float> watched;  // of those asked about; -inf: not legal
  float masked_mass = 0;       // how likely all tokens that were not legal were together
};

// Ten rounds of Philox-4x32 (Salmon et al. 2011): the words of a counter under a key. Counters make
// a draw a function of (seed, choice, position) alone: it does not matter who else is in the batch
// or how often the sequence was preempted.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key);

}  // namespace f1
