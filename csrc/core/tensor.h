// A view of a tensor's bytes in host memory; it owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace f1 {

// Rows of `inputs` values, each row contiguous. A vector is one row.
struct Tensor {
  DType dtype = DType::kF32;
  int64_t rows = 1;
  int64_t inputs = 0;
  const std::byte* data = nullptr;

  const std::byte* row(int64_t index) const {
    return data + static_cast<size_t>(index) * row_bytes(dtype, inputs);
  }
};

}  // namespace f1
