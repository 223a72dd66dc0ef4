// Sixteen lanes in two AVX2 registers. See lanes_scalar.h for meanings.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace f1::cpu {

struct Avx2Lanes {
  static constexpr int kRegisters = 8;
  struct F32 {
    __m256 low, high;
  };
  struct I32 {
    __m256i low, high;
  };
  struct U8 {
    __m256i low, high;
  };

  static __m128i load_16_bytes(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
  static __m128i load_8_bytes(const void* p) {
    return _mm_loadl_epi64(static_cast<const __m128i*>(p));
  }
  static __m256i load_32_bytes(const void* p, size_t offset = 0) {
    return _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(static_cast<const std::byte*>(p) + offset));
  }
  // All ones in lane i where first + i < n.
  static __m256i mask(int n, int first) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - first), lanes);
  }
  static F32 of_halves(__m128i low, __m128i high) {
    return {_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)};
  }
  static __m256 of_bf16(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }

  static F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F32 load(const float* p, int n) {
    return {_mm256_maskload_ps(p, mask(n, 0)), _mm256_maskload_ps(p + 8, mask(n, 8))};
  }
  static F32 load_f16(const uint16_t* p) {
    return of_halves(load_16_bytes(p), load_16_bytes(p + 8));
  }
  static F32 load_f16(const uint16_t* p, int n) {
    uint16_t halves[16] = {};
    std::memcpy(halves, p, sizeof(uint16_t) * static_cast<size_t>(n));
    return load_f16(halves);
  }
  static F32 load_bf16(const uint16_t* p) {
    return {of_bf16(load_16_bytes(p)), of_bf16(load_16_bytes(p + 8))};
  }
  static F32 load_u8(const uint8_t* p) {
    return to_f32(
        {_mm256_cvtepu8_epi32(load_8_bytes(p)), _mm256_cvtepu8_epi32(load_8_bytes(p + 8))});
  }
  static F32 load_s8(const int8_t* p) {
    return to_f32(
        {_mm256_cvtepi8_epi32(load_8_bytes(p)), _mm256_cvtepi8_epi32(load_8_bytes(p + 8))});
  }
  // f16 or s8 number k of each dword.
  template <int kHalf>
  static F32 load_f16_of_pairs(const void* p) {
    const auto half = [](__m256i pairs) {
      return kHalf == 1 ? _mm256_srli_epi32(pairs, 16)
                        : _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
    };
    const __m256i packed = _mm256_packus_epi32(half(load_32_bytes(p)), half(load_32_bytes(p, 32)));
    const __m256i halves = _mm256_permute4x64_epi64(packed, 0xd8);  // packs work by 128 bits
    return of_halves(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  }
  template <int kByte>
  static F32 load_s8_of_quads(const void* p) {
    const auto byte = [](__m256i quads) {
      return _mm256_srai_epi32(_mm256_slli_epi32(quads, 24 - 8 * kByte), 24);
    };
    return to_f32({byte(load_32_bytes(p)), byte(load_32_bytes(p, 32))});
  }
  static void store(float* p, F32 a) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
  }
  static void store(float* p, F32 a, int n) {
    _mm256_maskstore_ps(p, mask(n, 0), a.low);
    _mm256_maskstore_ps(p + 8, mask(n, 8), a.high);
  }
  static void store_f16(uint16_t* p, F32 a, int n) {  // nearest, ties to even
    __m128i halves[2] = {_mm256_cvtps_ph(a.low, 0), _mm256_cvtps_ph(a.high, 0)};
    std::memcpy(p, halves, sizeof(uint16_t) * static_cast<size_t>(n));
  }
  static void store_s8(int8_t* p, I32 a) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_packs_epi16(_mm256_castsi256_si128(words),
                                     _mm256_extracti128_si256(words, 1)));
  }

  static F32 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32 add(F32 a, F32 b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static F32 sub(F32 a, F32 b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static F32 mul(F32 a, F32 b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static F32 div(F32 a, F32 b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  static F32 max(F32 a, F32 b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static F32 min(F32 a, F32 b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  static F32 fma(F32 a, F32 b, F32 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F32 first(int n, F32 a, F32 b) {
    return {_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(mask(n, 0))),
            _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(mask(n, 8)))};
  }
  static F32 round(F32 a) {  // nearest, ties to even
    return {_mm256_round_ps(a.low, 8), _mm256_round_ps(a.high, 8)};
  }
  static I32 to_i32(F32 a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
  static F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
  static F32 times_power_of_2(F32 a, F32 n) {
    const I32 biased = add(to_i32(n), set(127));
    return mul(a, {_mm256_castsi256_ps(_mm256_slli_epi32(biased.low, 23)),
                   _mm256_castsi256_ps(_mm256_slli_epi32(biased.high, 23))});
  }
  static float sum(F32 a) {  // pairwise, halves first
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(F32 a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest_magnitude(F32 a, F32 b) {
    const auto bits = [](__m256 x) {
      return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
    };
    const __m256i eight = _mm256_max_epi32(_mm256_max_epi32(bits(a.low), bits(a.high)),
                                           _mm256_max_epi32(bits(b.low), bits(b.high)));
    const __m128i four =
        _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    const __m128i one = _mm_max_epi32(two, _mm_shuffle_epi32(two, 1));
    return std::bit_cast<float>(_mm_cvtsi128_si32(one));
  }

  static I32 set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I32 add(I32 a, I32 b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  static I32 times_zero_point(I32 a, int zero) {
    const int shift = __builtin_ctz(static_cast<unsigned>(zero));
    return {_mm256_slli_epi32(a.low, shift), _mm256_slli_epi32(a.high, shift)};
  }
  static std::pair<int32_t, int32_t> sums_of_32(const int8_t* p) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), load_32_bytes(p));
    const __m256i quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    const __m256i two = _mm256_add_epi32(quads, _mm256_shuffle_epi32(quads, 0x4e));
    const __m256i sums = _mm256_add_epi32(two, _mm256_shuffle_epi32(two, 0xb1));
    return {_mm256_extract_epi32(sums, 0), _mm256_extract_epi32(sums, 4)};
  }

  static U8 load_bytes(const void* p) { return {load_32_bytes(p), load_32_bytes(p, 32)}; }
  static void store_bytes(void* p, U8 a) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), a.low);
    _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, a.high);
  }
  // Dwords 0 .. 7 of 8 rows; row_of(i) leads to row i's.
  template <typename RowOf>
  static void transpose_8(const RowOf& row_of, __m256i (&out)[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
      const __m256i even = load_32_bytes(row_of(i)), odd = load_32_bytes(row_of(i + 1));
      a[i] = _mm256_unpacklo_epi32(even, odd);
      a[i + 1] = _mm256_unpackhi_epi32(even, odd);
    }
    for (int i = 0; i < 8; i += 4) {  // b[i + j]: dwords j and 4 + j of rows i .. i + 3
      b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
      b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
      b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
      b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int j = 0; j < 4; ++j) {
      out[j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x20);
      out[4 + j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x31);
    }
  }
  template <typename RowOf, typename Put>
  static void transpose(const RowOf& row_of, const Put& put) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m256i low[8], high[8];
      transpose_8([&](int r) { return row_of(r) + 32 * half; }, low);
      transpose_8([&](int r) { return row_of(8 + r) + 32 * half; }, high);
#pragma GCC unroll 8  // put() wants constants
      for (int j = 0; j < 8; ++j) put(8 * half + j, U8{low[j], high[j]});
    }
  }
  static U8 low_nibbles(U8 a) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(a.low, mask), _mm256_and_si256(a.high, mask)};
  }
  static U8 high_nibbles(U8 a) {
    return low_nibbles({_mm256_srli_epi16(a.low, 4), _mm256_srli_epi16(a.high, 4)});
  }
  // 16 in the bytes whose bit is set.
  static __m256i spread_16(uint32_t where) {
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                               0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i bytes =
        _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(where)), byte_of);
    const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
    return _mm256_and_si256(is_set, _mm256_set1_epi8(16));
  }
  static U8 add_16(U8 a, uint64_t where) {
    return {_mm256_add_epi8(a.low, spread_16(static_cast<uint32_t>(where))),
            _mm256_add_epi8(a.high, spread_16(static_cast<uint32_t>(where >> 32)))};
  }
  template <int kField>
  static U8 add_bits45(U8 a, U8 plane) {
    const auto bits = [](__m256i x) {
      const __m256i shifted = kField < 2 ? _mm256_slli_epi16(x, 4 - 2 * (kField % 2))
                                         : _mm256_srli_epi16(x, 2 * (kField % 2));
      return _mm256_and_si256(shifted, _mm256_set1_epi8(0x30));
    };
    return {_mm256_or_si256(a.low, bits(plane.low)), _mm256_or_si256(a.high, bits(plane.high))};
  }
  // Sums of two products saturate at 16 bits: 2 * 255 * 127 does, 2 * 128 * 128 does not. So bit 7
  // goes by itself.
  static I32 dot(I32 acc, U8 a, U8 b) {
    const __m256i bit7 = _mm256_set1_epi8(static_cast<char>(0x80));
    const U8 high = {_mm256_and_si256(a.low, bit7), _mm256_and_si256(a.high, bit7)};
    const U8 low = {_mm256_andnot_si256(bit7, a.low), _mm256_andnot_si256(bit7, a.high)};
    return dot_7_bits(dot_7_bits(acc, low, b), high, b);
  }
  static I32 dot_7_bits(I32 acc, U8 a, U8 b) {
    const auto quads = [](__m256i x, __m256i y) {
      return _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1));
    };
    return add(acc, {quads(a.low, b.low), quads(a.high, b.high)});
  }
  static U8 set_quad(const int8_t* quad) {
    int32_t four;
    std::memcpy(&four, quad, 4);
    return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
  }
};

}  // namespace f1::cpu
