#include "weights/source.h"

#include "core/error.h"

namespace f1 {

Tensor TensorSource::tensor(const std::string& name) const {
  const std::string what = concat(file->path(), ": tensor '", name, "'");
  const uint64_t expected = tensor_bytes(dtype, shape, what);
  if (expected != num_bytes)
    throw InvalidArgument(concat(what, ": num_bytes is ", num_bytes, ", but dtype ",
                                 dtype_info(dtype).name, " and its shape take ", expected));
  if (offset > file->size() || num_bytes > file->size() - offset)
    throw InvalidArgument(concat(what, ": ", num_bytes, " bytes at offset ", offset,
                                 " leave the file of ", file->size(), " bytes"));
  if (!is_float(dtype) && offset % 2 != 0)  // their blocks hold 16-bit scales
    throw InvalidArgument(concat(what, ": offset ", offset, " is odd"));
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return {dtype, rows, shape.back(), file->bytes(offset, num_bytes).data()};
}

}  // namespace f1
