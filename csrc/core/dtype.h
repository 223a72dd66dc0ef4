// Element types of tensors in files: plain floats and ggml's block formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace f1 {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

struct DTypeInfo {
  std::string_view name;  // as ggml and our Python side write it: "F16", "Q4_K"
  int block_values;       // values that are stored together
  int block_bytes;        // bytes they take
};

const DTypeInfo& dtype_info(DType dtype);
inline bool is_float(DType dtype) { return dtype <= DType::kBF16; }

// Throws InvalidArgument that lists the known names.
DType dtype_from_name(std::string_view name);

// Bytes of a tensor, or of one row of `inputs` values. `what` names it in errors. Throws
// InvalidArgument when a dimension is not positive, the innermost is no multiple of the block, or
// the product overflows.
uint64_t tensor_bytes(DType dtype, std::span<const int64_t> shape, std::string_view what);
size_t row_bytes(DType dtype, int64_t inputs);

}  // namespace f1
