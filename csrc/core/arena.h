// Memory for many tensors that live and die together, side by side on huge pages.
#pragma once

#include <cstddef>
#include <vector>

#include "core/buffer.h"

namespace f1 {

class Arena {
 public:
  // Zeroed and 64-byte aligned; lives as long as the arena. Throws DeviceError.
  std::byte* allocate(size_t bytes);

 private:
  std::vector<Buffer<std::byte>> blocks_;
  size_t used_ = 0;  // bytes of the last block
};

}  // namespace f1
