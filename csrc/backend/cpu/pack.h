// From a file's rows to panels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/panels.h"
#include "core/tensor.h"

namespace f1::cpu {

// Everything about the packed form but its memory.
PanelMatrix panel_layout(const Tensor& tensor);
// Packs rows 16 * index ... of `tensor` to their places in `data`, which is zeroed.
void pack_panel(const Tensor& tensor, const PanelMatrix& matrix, int64_t index, std::byte* data);

}  // namespace f1::cpu
