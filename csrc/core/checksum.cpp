#include "core/checksum.h"

#include <bit>
#include <cstring>

namespace f1 {
namespace {

constexpr int kLanes = 4;  // side by side: one product waits for no other
constexpr uint64_t kFactor = 0x9E3779B97F4A7C15ull;  // odd: every step can be undone

// For a given `word` a bijection of `state`, and the other way round: what differs once stays
// different until other words differ, too.
uint64_t step(uint64_t state, uint64_t word) { return std::rotl((state ^ word) * kFactor, 29); }

}  // namespace

uint64_t checksum(std::span<const std::byte> bytes) {
  uint64_t states[kLanes] = {1, 2, 3, 4};
  uint64_t words[kLanes];
  for (; bytes.size() >= sizeof(words); bytes = bytes.subspan(sizeof(words))) {
    std::memcpy(words, bytes.data(), sizeof(words));
    for (int i = 0; i < kLanes; ++i) states[i] = step(states[i], words[i]);
  }
  std::memset(words, 0, sizeof(words));
  if (!bytes.empty()) std::memcpy(words, bytes.data(), bytes.size());
  uint64_t result = bytes.size();
  for (int i = 0; i < kLanes; ++i) result = step(result, step(states[i], words[i]));
  return result;
}

}  // namespace f1
