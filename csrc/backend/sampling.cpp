#include "backend/sampling.h"

#include <cmath>

#include "core/error.h"

namespace f1 {

namespace {

template <typename T>
void require(bool holds, const char* name, const char* range, T value) {
  if (!holds) throw InvalidArgument(concat(name, " must be ", range, ", got ", value));
}

bool finite(float x) { return std::isfinite(x); }

}  // namespace

void check_sampling(const SamplingParams& params, int vocab_size) {
  require(finite(params.temperature) && params.temperature >= 0, "temperature", "finite and >= 0",
          params.temperature);
  require(params.top_k >= 0, "top_k", ">= 0", params.top_k);
  require(params.top_p > 0 && params.top_p <= 1, "top_p", "in (0, 1]", params.top_p);
  require(params.min_p >= 0 && params.min_p <= 1, "min_p", "in [0, 1]", params.min_p);
  require(finite(params.repetition_penalty) && params.repetition_penalty > 0, "repetition_penalty",
          "finite and > 0", params.repetition_penalty);
  require(finite(params.presence_penalty), "presence_penalty", "finite", params.presence_penalty);
  require(finite(params.frequency_penalty), "frequency_penalty", "finite",
          params.frequency_penalty);
  require(params.num_logprobs >= -1 && params.num_logprobs <= vocab_size, "num_logprobs",
          "-1 or a number of tokens of the vocabulary", params.num_logprobs);
  require(!params.masked_mass || params.num_logprobs >= 0, "masked_mass",
          "false where num_logprobs is -1", params.masked_mass);
  for (const auto& [token_id, bias] : params.logit_bias) {
    require(token_id >= 0 && token_id < vocab_size, "logit_bias", "of tokens in the vocabulary",
            token_id);
    require(finite(bias), "logit_bias", "finite", bias);
  }
}

void check_soft(const SoftParams& params, int num_tokens, int vocab_size) {
  require(params.num_steps >= 0, "soft num_steps", ">= 0", params.num_steps);
  require(params.position > 0 && params.position <= num_tokens, "soft position",
          "in 1..the number of tokens", params.position);
  require(params.top_k > 0 && params.top_k <= vocab_size, "soft top_k",
          "a number of tokens of the vocabulary", params.top_k);
  require(finite(params.temperature) && params.temperature > 0, "soft temperature",
          "finite and > 0", params.temperature);
  require(finite(params.noise) && params.noise >= 0, "soft noise", "finite and >= 0", params.noise);
  require(finite(params.cold_entropy), "soft cold_entropy", "finite", params.cold_entropy);
  require(params.cold_steps >= 0, "soft cold_steps", ">= 0", params.cold_steps);
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

}  // namespace f1
