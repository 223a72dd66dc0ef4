// Grammar masks: [ceil(V / 32)] words, bit i % 32 of word i / 32 set = token i is legal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace f1 {

inline bool is_legal(const int32_t* mask, int32_t token_id) {
  return static_cast<uint32_t>(mask[token_id / 32]) >> (token_id % 32) & 1;
}

// Appends the legal tokens to `token_ids`, ascending, if they are at most `max_listed`; otherwise
// leaves it as it was and returns false.
bool list_legal_tokens(const int32_t* mask, int vocab_size, size_t max_listed,
                       std::vector<int32_t>& token_ids);

}  // namespace f1
