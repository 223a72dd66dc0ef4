// The output matrix, repacked so that all of its rows can be read or, where a grammar leaves few
// tokens, any few. A row is lines of 64 bytes, first its scales (and mins), then its codes. Rows
// stand 16 by 16: the first lines of 16 rows, then their second lines, and so on. Kernels take a
// line of 16 rows, neighbours or not, and turn dwords of rows into rows of dwords,
//
//     dword k of a line  =  one quad of codes, or the scales that belong to 64 or 32 inputs
//
// so that it becomes 16 vectors as panels have them (panels.h). Neighbours' lines are one stream.
// By form:
//
//   k8Bit (Q8_0)     scales: f16 of 32 inputs, two a dword
//                    codes: u8, biased by 128
//   k6Bit (Q6_K)     scales: s8 of 16 inputs, four a dword; from a new line on, f16 d of 256 inputs
//                    codes: of 256 inputs, in four blocks of 64, three lines: the low four bits of
//                    block 0 | block 1 << 4, of 2 | 3 << 4, the high two bits of block i at bit 2i
//   kAnyBits (rest)  scales: f32 of 32 inputs; from a new line on, f32 mins
//                    codes: u8
//   kFloats          in place, as in the file
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"

namespace f1::cpu {

inline constexpr int kLine = 64;
inline constexpr size_t kLineStride = 16 * kLine;

enum class HeadForm { k8Bit, k6Bit, kAnyBits, kFloats };

// The head as kernels see it.
struct HeadMatrix {
  HeadForm form;
  int zero_point;  // of the codes
  Tensor tensor;   // the file's; its data is read only where the form is kFloats
  size_t second_scales, codes,
      num_lines;  // the lines where d or mins and where codes begin; of all
  const std::byte* data;

  size_t num_bytes() const {
    return static_cast<size_t>((tensor.rows + 15) / 16) * num_lines * kLineStride;
  }
  // The first line of a row; the others follow kLineStride apart.
  size_t offset(int64_t row) const {
    return static_cast<size_t>(row / 16) * num_lines * kLineStride +
           static_cast<size_t>(row % 16 * kLine);
  }
  const std::byte* row(int64_t index) const { return data + offset(index); }
};

// Everything but the memory.
HeadMatrix head_layout(const Tensor& tensor);
// Writes row `index` to its lines of `data`, which are zero. Not for floats.
void pack_head_row(const HeadMatrix& matrix, int64_t index, std::byte* data);

}  // namespace f1::cpu
