// A small, safe reader of GGUF files, versions 2 and 3, little-endian.
// Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/dtype.h"
#include "core/mapped_file.h"

namespace f1 {

using GgufScalar = std::variant<bool, int64_t, uint64_t, double, std::string_view>;

// An array of scalars of one type; they stay in the file until they are asked for.
struct GgufArray {
  uint32_t item_type = 0;
  uint64_t count = 0;
  uint64_t offset = 0;  // of the first item, from the start of the file
};

// Strings are raw bytes in the file.
using GgufValue = std::variant<GgufScalar, GgufArray>;

struct GgufTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first (the file has it innermost first)
  uint64_t offset = 0;         // from the start of the file
  uint64_t num_bytes = 0;
};

struct GgufFile {
  std::shared_ptr<const MappedFile> file;  // keeps the strings alive
  std::vector<std::pair<std::string, GgufValue>> metadata;
  std::vector<GgufTensor> tensors;
};

// Reads header, metadata and tensor table. Every count, length and offset is checked against the
// file before it is used, and all together may not stand for more than 64 MiB of objects. Throws
// InvalidArgument naming the tensor or key, the field and the offset.
GgufFile read_gguf(const std::string& path);

// Calls take() for each item of an array of that file.
void for_each_item(const GgufFile& gguf, const GgufArray& array,
                   const std::function<void(const GgufScalar&)>& take);

}  // namespace f1
