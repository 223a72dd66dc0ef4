// The output matrix, repacked row by row: a grammar may want any few of its rows, and without one
// all of them stream by. Along its inputs a row is cut into blocks of 64, one vector of codes each.
//
//   k8Bit (Q8_0)     u8 codes [64] a block (biased by 128)           f16 scales, one for 32 inputs
//   k6Bit (Q6_K)     of 4 blocks: their low four bits as nibbles     s8 scales, one for 16 inputs,
//                    (blocks 0 | 1 << 4, 2 | 3 << 4), then their     f16 d, one for 256
//                    high two bits (block i at bit 2i)
//   kAnyBits (rest)  u8 codes [64] a block                           f32 scales, then f32 mins, one
//                                                                    for 32 inputs
//   kFloats          in place, as in the file
//
// A row is its scales, filled up with zeros to a multiple of 64 bytes, then its codes: reading runs
// straight on, as the processor's prefetching wants it (codes first cost two thirds of the speed).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"

namespace f1::cpu {

inline constexpr int kHeadBlock = 64;

enum class HeadForm { k8Bit, k6Bit, kAnyBits, kFloats };

// The head as kernels see it.
struct HeadMatrix {
  HeadForm form;
  int zero_point;  // of the codes
  Tensor tensor;   // the file's; its data is read only where the form is kFloats
  size_t scale_bytes, row_bytes;
  const std::byte* data;

  int64_t num_blocks() const { return (tensor.inputs + kHeadBlock - 1) / kHeadBlock; }
  const std::byte* scales(int64_t row) const { return data + static_cast<size_t>(row) * row_bytes; }
  const std::byte* codes(int64_t row) const { return scales(row) + scale_bytes; }
};

// 64 inputs of one token as s8 codes. All lanes' values lie side by side, as the kernel wants them.
struct alignas(64) HeadBlock {
  int8_t codes[kHeadBlock];
  int32_t starts[16];     // -zero point * sum of the lane's four codes
  float scales[16];       // of the lane's codes
  float scaled_sums[16];  // scale * sum of codes: of 32 inputs in lanes 0 and 8, 0 in the others
};

// Everything but the memory: form, zero point and the size of a row.
HeadMatrix head_layout(const Tensor& tensor);
// Writes row `index` to out[0 .. row_bytes), which is zero. Not for floats.
void pack_head_row(const HeadMatrix& matrix, int64_t index, std::byte* out);

}  // namespace f1::cpu
