// Where a tensor's bytes lie: a checked span of a mapped file, whatever the file's format.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/mapped_file.h"
#include "core/tensor.h"

namespace f1 {

struct TensorSource {
  std::shared_ptr<const MappedFile> file;
  uint64_t offset = 0;
  uint64_t num_bytes = 0;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first

  // All dimensions but the innermost become rows. `name` is for errors: throws InvalidArgument when
  // dtype and shape do not make num_bytes or the range leaves the file.
  Tensor tensor(const std::string& name) const;
};

}  // namespace f1
