// ggml's quantised blocks as they lie in files, and their one common reading:
//
//     value[i] = scale[i / 16] * (code[i] - kZero) + min[i / 32]     codes: unsigned, of kBits bits
//
// Everything that reads a file's blocks goes through their methods: packing, embedding, head rows.
// Layouts: ggml-common.h and the dequantisers in ggml-quants.c of github.com/ggml-org/ggml.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/half.h"

namespace f1 {
// Unnamed, for once in a header: each file that includes it must have its own copy of the
// functions, compiled for its own instruction set.
namespace {

// codes() writes a block's codes; scales() those of each 16 values (formats whose scales hold for
// 32 repeat them) and, where there are, the mins of each 32. The codes overlap nothing: without
// knowing that, byte stores keep the compiler from vectorising.

// qs[i]: low nibble value i, high nibble value i + 16.
template <typename Block>
inline void decode_nibbles(const Block& block, uint8_t* __restrict out) {
  for (int i = 0; i < 16; ++i) {
    out[i] = block.qs[i] & 15;
    out[i + 16] = block.qs[i] >> 4;
  }
}

// Bit i of qh is bit 4 of value i.
template <typename Block>
inline void decode_fifth_bits(const Block& block, uint8_t* __restrict out) {
  uint32_t bits;
  std::memcpy(&bits, block.qh, 4);
  for (int i = 0; i < 32; ++i) out[i] |= static_cast<uint8_t>((bits >> i & 1) << 4);
}

struct Q4_0 {
  static constexpr int kBlock = 32, kBits = 4, kZero = 8;
  static constexpr bool kHasMin = false;
  uint16_t d;
  uint8_t qs[16];
  void codes(uint8_t* out) const { decode_nibbles(*this, out); }
  void scales(float* out, float*) const { out[0] = out[1] = f16_to_float(d); }
};
static_assert(sizeof(Q4_0) == 18);

struct Q4_1 {
  static constexpr int kBlock = 32, kBits = 4, kZero = 0;
  static constexpr bool kHasMin = true;
  uint16_t d, m;
  uint8_t qs[16];
  void codes(uint8_t* out) const { decode_nibbles(*this, out); }
  void scales(float* out, float* mins) const {
    out[0] = out[1] = f16_to_float(d);
    mins[0] = f16_to_float(m);
  }
};
static_assert(sizeof(Q4_1) == 20);

struct Q5_0 {
  static constexpr int kBlock = 32, kBits = 5, kZero = 16;
  static constexpr bool kHasMin = false;
  uint16_t d;
  uint8_t qh[4], qs[16];
  void codes(uint8_t* out) const {
    decode_nibbles(*this, out);
    decode_fifth_bits(*this, out);
  }
  void scales(float* out, float*) const { out[0] = out[1] = f16_to_float(d); }
};
static_assert(sizeof(Q5_0) == 22);

struct Q5_1 {
  static constexpr int kBlock = 32, kBits = 5, kZero = 0;
  static constexpr bool kHasMin = true;
  uint16_t d, m;
  uint8_t qh[4], qs[16];
  void codes(uint8_t* out) const {
    decode_nibbles(*this, out);
    decode_fifth_bits(*this, out);
  }
  void scales(float* out, float* mins) const {
    out[0] = out[1] = f16_to_float(d);
    mins[0] = f16_to_float(m);
  }
};
static_assert(sizeof(Q5_1) == 24);

struct Q8_0 {
  static constexpr int kBlock = 32, kBits = 8, kZero = 128;
  static constexpr bool kHasMin = false;
  uint16_t d;
  uint8_t qs[32];  // signed
  void codes(uint8_t* __restrict out) const {
    for (int i = 0; i < 32; ++i) out[i] = qs[i] ^ 0x80;
  }
  void scales(float* out, float*) const { out[0] = out[1] = f16_to_float(d); }
};
static_assert(sizeof(Q8_0) == 34);

// The 6-bit scales and mins of the 8 groups of 32 in Q4_K and Q5_K, in 12 bytes:
//   bytes 0-3   scale g in bits 0-5, scale g+4's two high bits in bits 6-7    (g = 0..3)
//   bytes 4-7   min g likewise
//   bytes 8-11  scale g+4's low nibble | min g+4's low nibble << 4
inline void unpack_k_scales(const uint8_t* packed, uint8_t* scales, uint8_t* mins) {
  for (int g = 0; g < 4; ++g) {
    scales[g] = packed[g] & 63;
    mins[g] = packed[g + 4] & 63;
    scales[g + 4] = static_cast<uint8_t>((packed[g + 8] & 15) | (packed[g] >> 6) << 4);
    mins[g + 4] = static_cast<uint8_t>((packed[g + 8] >> 4) | (packed[g + 4] >> 6) << 4);
  }
}

// Every 32 bytes of qs hold group 2j in their low and group 2j + 1 in their high nibbles.
template <typename Block>
inline void decode_k_codes(const Block& block, uint8_t* __restrict out) {
  for (int g = 0; g < 8; ++g) {
    const uint8_t* qs = block.qs + g / 2 * 32;
    for (int i = 0; i < 32; ++i) out[g * 32 + i] = static_cast<uint8_t>(qs[i] >> (g % 2 * 4) & 15);
  }
}

template <typename Block>
inline void decode_k_scales(const Block& block, float* out, float* mins) {
  uint8_t small_scales[8], small_mins[8];
  unpack_k_scales(block.packed_scales, small_scales, small_mins);
  const float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  for (int g = 0; g < 8; ++g) {
    out[2 * g] = out[2 * g + 1] = d * static_cast<float>(small_scales[g]);
    mins[g] = -(dmin * static_cast<float>(small_mins[g]));
  }
}

struct Q4_K {
  static constexpr int kBlock = 256, kBits = 4, kZero = 0;
  static constexpr bool kHasMin = true;
  uint16_t d, dmin;
  uint8_t packed_scales[12], qs[128];
  void codes(uint8_t* out) const { decode_k_codes(*this, out); }
  void scales(float* out, float* mins) const { decode_k_scales(*this, out, mins); }
};
static_assert(sizeof(Q4_K) == 144);

struct Q5_K {
  static constexpr int kBlock = 256, kBits = 5, kZero = 0;
  static constexpr bool kHasMin = true;
  uint16_t d, dmin;
  uint8_t packed_scales[12], qh[32], qs[128];  // bit g of qh[i]: bit 4 of value i of group g
  void codes(uint8_t* __restrict out) const {
    decode_k_codes(*this, out);
    for (int g = 0; g < 8; ++g)
      for (int i = 0; i < 32; ++i) out[g * 32 + i] |= static_cast<uint8_t>((qh[i] >> g & 1) << 4);
  }
  void scales(float* out, float* mins) const { decode_k_scales(*this, out, mins); }
};
static_assert(sizeof(Q5_K) == 176);

// Per half of 128 values, four quarters of 32: ql's 64 bytes hold quarters 0, 1 in their low and 2,
// 3 in their high nibbles; qh's 32 bytes hold two bits of each quarter.
struct Q6_K {
  static constexpr int kBlock = 256, kBits = 6, kZero = 32;
  static constexpr bool kHasMin = false;
  uint8_t ql[128], qh[64];
  int8_t small_scales[16];
  uint16_t d;
  void codes(uint8_t* __restrict out) const {
    for (int i = 0; i < 8; ++i) {  // 32 values
      const int half = i / 4, quarter = i % 4;
      const uint8_t* low = ql + half * 64 + quarter % 2 * 32;
      const uint8_t* high = qh + half * 32;
      for (int j = 0; j < 32; ++j)
        out[i * 32 + j] = static_cast<uint8_t>((low[j] >> (quarter / 2 * 4) & 15) |
                                               (high[j] >> (quarter * 2) & 3) << 4);
    }
  }
  void scales(float* out, float*) const {
    const float scale = f16_to_float(d);
    for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>(small_scales[i]);
  }
};
static_assert(sizeof(Q6_K) == 210);

template <typename BlockType>
struct Format {
  using Block = BlockType;
};

// Calls function(Format<block type of dtype>()); nothing for floats.
template <typename Function>
void with_format(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kQ4_0:
      return function(Format<Q4_0>());
    case DType::kQ4_1:
      return function(Format<Q4_1>());
    case DType::kQ5_0:
      return function(Format<Q5_0>());
    case DType::kQ5_1:
      return function(Format<Q5_1>());
    case DType::kQ8_0:
      return function(Format<Q8_0>());
    case DType::kQ4_K:
      return function(Format<Q4_K>());
    case DType::kQ5_K:
      return function(Format<Q5_K>());
    case DType::kQ6_K:
      return function(Format<Q6_K>());
    default:
      return;
  }
}

}  // namespace
}  // namespace f1
