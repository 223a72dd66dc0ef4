// Sixteen lanes in plain C++: what every other lanes_*.h must mean.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/half.h"

namespace f1::cpu {

struct ScalarLanes {
  static constexpr int kRegisters = 8;  // F32 to work on at once
  struct F32 {
    float v[16];
  };
  struct I32 {
    int32_t v[16];
  };
  struct U8 {
    uint8_t v[64];
  };

  template <typename Vector, typename Function>
  static Vector each(Function function) {
    Vector result;
    for (int i = 0; i < 16; ++i) result.v[i] = function(i);
    return result;
  }
  template <typename Function>
  static U8 each_byte(Function function) {
    U8 result;
    for (int i = 0; i < 64; ++i) result.v[i] = static_cast<uint8_t>(function(i));
    return result;
  }

  // Loads and stores; those with a count touch only the first `n` lanes and load 0 in the rest.
  static F32 load(const float* p) {
    return each<F32>([=](int i) { return p[i]; });
  }
  static F32 load(const float* p, int n) {
    return each<F32>([=](int i) { return i < n ? p[i] : 0.0f; });
  }
  static F32 load_f16(const uint16_t* p) {
    return each<F32>([=](int i) { return f16_to_float(p[i]); });
  }
  static F32 load_f16(const uint16_t* p, int n) {
    return each<F32>([=](int i) { return i < n ? f16_to_float(p[i]) : 0.0f; });
  }
  static F32 load_bf16(const uint16_t* p) {
    return each<F32>([=](int i) { return bf16_to_float(p[i]); });
  }
  static F32 load_u8(const uint8_t* p) {
    return each<F32>([=](int i) { return static_cast<float>(p[i]); });
  }
  static F32 load_s8(const int8_t* p) {
    return each<F32>([=](int i) { return static_cast<float>(p[i]); });
  }
  // f16 or s8 number k of each dword.
  template <int kHalf>
  static F32 load_f16_of_pairs(const void* p) {
    uint16_t halves[32];
    std::memcpy(halves, p, 64);
    return each<F32>([&](int i) { return f16_to_float(halves[2 * i + kHalf]); });
  }
  template <int kByte>
  static F32 load_s8_of_quads(const void* p) {
    int8_t bytes[64];
    std::memcpy(bytes, p, 64);
    return each<F32>([&](int i) { return static_cast<float>(bytes[4 * i + kByte]); });
  }
  static void store(float* p, F32 a) { std::memcpy(p, a.v, sizeof(a.v)); }
  static void store(float* p, F32 a, int n) {
    for (int i = 0; i < n; ++i) p[i] = a.v[i];
  }
  static void store_f16(uint16_t* p, F32 a, int n) {  // nearest, ties to even
    for (int i = 0; i < n; ++i) p[i] = float_to_f16(a.v[i]);
  }
  static void store_s8(int8_t* p, I32 a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
  }

  static F32 set(float x) {
    return each<F32>([=](int) { return x; });
  }
  static F32 add(F32 a, F32 b) {
    return each<F32>([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F32 sub(F32 a, F32 b) {
    return each<F32>([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F32 mul(F32 a, F32 b) {
    return each<F32>([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F32 div(F32 a, F32 b) {
    return each<F32>([&](int i) { return a.v[i] / b.v[i]; });
  }
  static F32 max(F32 a, F32 b) {
    return each<F32>([&](int i) { return std::max(a.v[i], b.v[i]); });
  }
  static F32 min(F32 a, F32 b) {
    return each<F32>([&](int i) { return std::min(a.v[i], b.v[i]); });
  }
  // a * b + c; whether it rounds once or twice is each instruction set's own.
  static F32 fma(F32 a, F32 b, F32 c) {
    return each<F32>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  // a in the first n lanes, b in the rest.
  static F32 first(int n, F32 a, F32 b) {
    return each<F32>([&](int i) { return i < n ? a.v[i] : b.v[i]; });
  }
  static F32 round(F32 a) {
    return each<F32>([&](int i) { return std::nearbyintf(a.v[i]); });
  }
  static I32 to_i32(F32 a) {  // of rounded values
    return each<I32>([&](int i) { return static_cast<int32_t>(a.v[i]); });
  }
  static F32 to_f32(I32 a) {
    return each<F32>([&](int i) { return static_cast<float>(a.v[i]); });
  }
  static F32 times_power_of_2(F32 a, F32 n) {  // n: integers in -126..127
    return each<F32>([&](int i) {
      return a.v[i] * std::bit_cast<float>((static_cast<int32_t>(n.v[i]) + 127) << 23);
    });
  }
  static float sum(F32 a) {  // pairwise, halves first
    for (int width = 8; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
    return a.v[0];
  }
  static float largest(F32 a) { return *std::max_element(a.v, a.v + 16); }
  // The largest |value| of both; not a number where one of them is none, which max() may lose: the
  // bits of magnitudes order as they do, those of a NaN come last.
  static float largest_magnitude(F32 a, F32 b) {
    uint32_t bits = 0;
    for (int i = 0; i < 16; ++i) {
      bits = std::max({bits, std::bit_cast<uint32_t>(std::fabs(a.v[i])),
                       std::bit_cast<uint32_t>(std::fabs(b.v[i]))});
    }
    return std::bit_cast<float>(bits);
  }

  static I32 set(int32_t x) {
    return each<I32>([=](int) { return x; });
  }
  static I32 add(I32 a, I32 b) {
    return each<I32>([&](int i) { return a.v[i] + b.v[i]; });
  }
  static I32 times_zero_point(I32 a, int zero) {  // a power of two
    return each<I32>([&](int i) { return a.v[i] * zero; });
  }
  static std::pair<int32_t, int32_t> sums_of_32(const int8_t* p) {  // of the first 16, the rest
    std::pair<int32_t, int32_t> sums;
    for (int i = 0; i < 16; ++i) {
      sums.first += p[i];
      sums.second += p[16 + i];
    }
    return sums;
  }

  static U8 load_bytes(const void* p) {
    U8 result;
    std::memcpy(result.v, p, 64);
    return result;
  }
  static void store_bytes(void* p, U8 a) { std::memcpy(p, a.v, 64); }
  static U8 set_quad(const int8_t* quad) {  // the same four bytes for every lane
    return each_byte([=](int i) { return quad[i % 4]; });
  }
  // put(k, vector) for k < 16: dword k of 64 bytes of each of 16 rows.
  template <typename RowOf, typename Put>
  static void transpose(const RowOf& row_of, const Put& put) {
    for (int k = 0; k < 16; ++k) {
      U8 dwords;
      for (int r = 0; r < 16; ++r) std::memcpy(dwords.v + 4 * r, row_of(r) + 4 * k, 4);
      put(k, dwords);
    }
  }
  static U8 low_nibbles(U8 a) {
    return each_byte([&](int i) { return a.v[i] & 15; });
  }
  static U8 high_nibbles(U8 a) {
    return each_byte([&](int i) { return a.v[i] >> 4; });
  }
  static U8 add_16(U8 a, uint64_t where) {  // to the bytes whose bit is set
    return each_byte([&](int i) { return a.v[i] + (where >> i & 1) * 16; });
  }
  template <int kField>
  static U8 add_bits45(U8 a, U8 plane) {  // bits 2 * kField, 2 * kField + 1 of the plane
    return each_byte([&](int i) { return a.v[i] | (plane.v[i] >> (2 * kField) & 3) << 4; });
  }
  // acc + dot products of unsigned a with signed b, four bytes to a lane; in steps that compilers
  // turn into 16-bit vectors.
  static I32 dot(I32 acc, U8 a, U8 b) {
    int16_t products[64];  // 255 * 127 fits
    for (int i = 0; i < 64; ++i)
      products[i] = static_cast<int16_t>(int16_t{a.v[i]} * static_cast<int8_t>(b.v[i]));
    int32_t pairs[32];
    for (int i = 0; i < 32; ++i) pairs[i] = products[2 * i] + products[2 * i + 1];
    return each<I32>([&](int i) { return acc.v[i] + pairs[2 * i] + pairs[2 * i + 1]; });
  }
  static I32 dot_7_bits(I32 acc, U8 a, U8 b) { return dot(acc, a, b); }  // of a < 128
};

}  // namespace f1::cpu
