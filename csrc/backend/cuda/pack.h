// From a file's rows to bf16 on the host.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cuda/numbers.h"
#include "core/tensor.h"

namespace f1::cuda {

// A row of `tensor` as floats, tensor.inputs of them.
void decode_row(const Tensor& tensor, int64_t row, float* out);
// [tensor.rows, stride], the columns beyond tensor.inputs zero.
std::vector<Bf16> pack_rows(const Tensor& tensor, int64_t stride);

}  // namespace f1::cuda
