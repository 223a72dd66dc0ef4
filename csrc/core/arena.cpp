#include "core/arena.h"

#include <algorithm>

namespace f1 {
namespace {

constexpr size_t kBlockBytes = size_t{64} << 20;  // what is never touched of it takes no memory
constexpr size_t kAlignment = 64;

}  // namespace

std::byte* Arena::allocate(size_t bytes) {
  if (blocks_.empty() || bytes > blocks_.back().size() - used_) {
    blocks_.emplace_back(std::max(bytes, kBlockBytes));
    used_ = 0;
  }
  const Buffer<std::byte>& block = blocks_.back();
  std::byte* data = block.data() + used_;
  used_ = std::min((used_ + bytes + kAlignment - 1) / kAlignment * kAlignment, block.size());
  return data;
}

}  // namespace f1
