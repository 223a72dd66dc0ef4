// The table of all kernels over a Lanes type. Each row's sums have one order: along the inputs,
// lane by lane, whatever the number of rows worked on together.
#pragma once

#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/head_kernels.h"
#include "backend/cpu/panel_kernels.h"
#include "backend/cpu/row_kernels.h"
#include "backend/cpu/table_kernels.h"

namespace f1::cpu {

template <typename L>
constexpr Kernels kernels_of(const char* name) {
  return {
      .name = name,
      .rms_norm = RowKernels<L>::rms_norm,
      .quantize = RowKernels<L>::quantize,
      .quantize_rows = RowKernels<L>::quantize_rows,
      .rotate = RowKernels<L>::rotate,
      .write_slot = RowKernels<L>::write_slot,
      .panels_dot = PanelKernels<L>::panels_dot,
      .dot = RowKernels<L>::dot,
      .silu_mul = RowKernels<L>::silu_mul,
      .attend_segment = AttentionKernels<L>::attend_segment,
      .join_segment = AttentionKernels<L>::join_segment,
      .finish_attend = AttentionKernels<L>::finish_attend,
      .decode_row = TableKernels<L>::decode_row,
      .head_dot = HeadKernels<L>::dot,
      .head_dot_listed = HeadKernels<L>::dot_listed,
  };
}

}  // namespace f1::cpu
