// The output matrix, repacked so that all of its rows can be read or, where a grammar leaves few
// tokens, any few. A row is lines of 64 bytes, in the order in which kernels take them. Rows stand
// 16 by 16: the first lines of 16 rows, then their second lines, and so on. Kernels take a line of
// 16 rows, neighbours or not, and turn dwords of rows into rows of dwords,
//
//     dword k of a line  =  one quad of codes, or the scales that belong to 64 or 32 inputs
//
// so that it becomes 16 vectors as panels have them (panels.h). Neighbours' lines are one stream.
// By form, the lines of every 1024 inputs (of 512 for kAnyBits):
//
//   k8Bit (Q8_0)     1 f16 scales of 32 inputs, two a dword; 16 u8 codes, biased by 128
//   k6Bit (Q6_K)     1 s8 scales of 16 inputs, four a dword; 1 f16 d of 256 inputs, two a dword;
//                    codes of 256 inputs, in four blocks of 64, in 3: the high two bits of block i
//                    at bit 2i; the low four of block 0 | block 1 << 4; those of 2 | 3 << 4
//   kAnyBits (rest)  1 f32 scales of 32 inputs; 1 f32 mins; 8 u8 codes
//   kFloats          in place, as in the file
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"

namespace f1::cpu {

inline constexpr int kLine = 64;
inline constexpr size_t kLineStride = 16 * kLine;
// Lines of 1024 inputs; of 512 for kAnyBits.
inline constexpr int64_t kLines8Bit = 17, kLines6Bit = 14, kLinesAnyBits = 10;

enum class HeadForm { k8Bit, k6Bit, kAnyBits, kFloats };

// The head as kernels see it.
struct HeadMatrix {
  HeadForm form;
  int zero_point;    // of the codes
  Tensor tensor;     // the file's; its data is read only where the form is kFloats
  size_t num_lines;  // of a row
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
