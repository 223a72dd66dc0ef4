// A small, safe reader of GGUF files, versions 2 and 3, little-endian.
// Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
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

// A metadata value: one scalar, or an array of scalars of one type. Strings are raw bytes in the
// file.
struct GgufValue {
  std::variant<GgufScalar, std::vector<GgufScalar>> value;
};

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
// file before it is used. Throws InvalidArgument naming the tensor or key, the field and the
// offset.
GgufFile read_gguf(const std::string& path);

}  // namespace f1
