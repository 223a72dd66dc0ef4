#include "core/dtype.h"

#include <array>

#include "core/error.h"

namespace f1 {
namespace {

constexpr std::array<DTypeInfo, 11> kInfos = {{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q4_0", 32, 18},
    {"Q4_1", 32, 20},
    {"Q5_0", 32, 22},
    {"Q5_1", 32, 24},
    {"Q8_0", 32, 34},
    {"Q4_K", 256, 144},
    {"Q5_K", 256, 176},
    {"Q6_K", 256, 210},
}};

}  // namespace

const DTypeInfo& dtype_info(DType dtype) { return kInfos.at(static_cast<size_t>(dtype)); }

DType dtype_from_name(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < kInfos.size(); ++i) {
    if (kInfos[i].name == name) return static_cast<DType>(i);
    known += concat(i ? ", " : "", kInfos[i].name);
  }
  throw InvalidArgument(concat("unknown dtype '", name, "'; known are ", known));
}

uint64_t tensor_bytes(DType dtype, std::span<const int64_t> shape, std::string_view what) {
  const DTypeInfo& info = dtype_info(dtype);
  if (shape.empty()) throw InvalidArgument(concat(what, ": has no dimensions"));
  if (shape.back() % info.block_values != 0)
    throw InvalidArgument(concat(what, ": rows of ", shape.back(), " values, but ", info.name,
                                 " is stored in blocks of ", info.block_values));
  uint64_t bytes = static_cast<uint64_t>(info.block_bytes);
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t values = i + 1 == shape.size() ? shape[i] / info.block_values : shape[i];
    if (values <= 0)
      throw InvalidArgument(
          concat(what, ": dimension ", i, " is ", shape[i], ", must be positive"));
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(values), &bytes))
      throw InvalidArgument(concat(what, ": its size overflows 64 bits"));
  }
  return bytes;
}

size_t row_bytes(DType dtype, int64_t inputs) {
  const DTypeInfo& info = dtype_info(dtype);
  return static_cast<size_t>(inputs / info.block_values * info.block_bytes);
}

}  // namespace f1
