// From a file's rows to panels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"

namespace f1::cpu {

// Bytes of one panel of 16 rows.
size_t panel_bytes(DType dtype, int64_t inputs);
// Packs rows 16 * index ... of `tensor` to `out`, panel_bytes() long and zeroed.
void pack_panel(const Tensor& tensor, int64_t index, std::byte* out);

}  // namespace f1::cpu
