#include "engine/token_mask.h"

#include <bit>

namespace f1 {

bool list_legal_tokens(const int32_t* mask, int vocab_size, size_t max_listed,
                       std::vector<int32_t>& token_ids) {
  const size_t size_before = token_ids.size();
  const int num_words = (vocab_size + 31) / 32;
  for (int i = 0; i < num_words; ++i) {
    uint32_t word = static_cast<uint32_t>(mask[i]);
    if (i + 1 == num_words && vocab_size % 32 != 0) word &= (1u << (vocab_size % 32)) - 1;
    if (word == 0) continue;
    if (token_ids.size() - size_before + std::popcount(word) > max_listed) {
      token_ids.resize(size_before);
      return false;
    }
    for (; word != 0; word &= word - 1) token_ids.push_back(i * 32 + std::countr_zero(word));
  }
  return true;
}

}  // namespace f1
