#include "backend/sampling.h"

#include <cmath>

#include "core/error.h"

namespace f1 {

void check_sampling(const SamplingParams& params, int vocab_size) {
  const auto require = [](bool holds, const char* name, const char* range, auto value) {
    if (!holds) throw InvalidArgument(concat(name, " must be ", range, ", got ", value));
  };
  const auto finite = [](float x) { return std::isfinite(x); };
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
