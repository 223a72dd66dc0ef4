// Sixteen lanes in one AVX-512 register, with VNNI's dot products. See lanes_scalar.h for meanings.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

namespace f1::cpu {

struct Avx512Lanes {
  static constexpr int kRegisters = 32;
  using F32 = __m512;
  struct I32 {
    __m512i v;
  };
  struct U8 {
    __m512i v;
  };

  static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static __m256i load_halves(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m128i load_16_bytes(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }

  static F32 load(const float* p) { return _mm512_loadu_ps(p); }
  static F32 load(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static F32 load_f16(const uint16_t* p) { return _mm512_cvtph_ps(load_halves(p)); }
  static F32 load_f16(const uint16_t* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  static F32 load_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(load_halves(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static F32 load_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16_bytes(p)));
  }
  static F32 load_s8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16_bytes(p)));
  }
  // f16 or s8 number k of each dword.
  template <int kHalf>
  static F32 load_f16_of_pairs(const void* p) {
    __m512i pairs = _mm512_loadu_si512(p);
    if constexpr (kHalf == 1) pairs = _mm512_srli_epi32(pairs, 16);
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
  }
  template <int kByte>
  static F32 load_s8_of_quads(const void* p) {
    const __m512i quads = _mm512_slli_epi32(_mm512_loadu_si512(p), 24 - 8 * kByte);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(quads, 24));
  }
  static void store(float* p, F32 a) { _mm512_storeu_ps(p, a); }
  static void store(float* p, F32 a, int n) { _mm512_mask_storeu_ps(p, mask(n), a); }
  static void store_f16(uint16_t* p, F32 a, int n) {  // nearest, ties to even
    _mm256_mask_storeu_epi16(p, mask(n), _mm512_cvtps_ph(a, 0));
  }
  static void store_s8(int8_t* p, I32 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
  }

  static F32 set(float x) { return _mm512_set1_ps(x); }
  static F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
  static F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
  static F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
  static F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
  static F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
  static F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
  static F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
  static F32 first(int n, F32 a, F32 b) { return _mm512_mask_blend_ps(mask(n), b, a); }
  static F32 round(F32 a) { return _mm512_roundscale_ps(a, 0); }  // nearest, ties to even
  static I32 to_i32(F32 a) { return {_mm512_cvtps_epi32(a)}; }
  static F32 to_f32(I32 a) { return _mm512_cvtepi32_ps(a.v); }
  static F32 times_power_of_2(F32 a, F32 n) { return _mm512_scalef_ps(a, n); }
  static float sum(F32 a) { return _mm512_reduce_add_ps(a); }
  static float largest(F32 a) { return _mm512_reduce_max_ps(a); }
  static float largest_magnitude(F32 a, F32 b) {
    const __m512i bits = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(a)),
                                          _mm512_castps_si512(_mm512_abs_ps(b)));
    return std::bit_cast<float>(_mm512_reduce_max_epi32(bits));
  }

  static I32 set(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static I32 add(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
  static I32 times_zero_point(I32 a, int zero) {
    return {
        _mm512_slli_epi32(a.v, static_cast<unsigned>(__builtin_ctz(static_cast<unsigned>(zero))))};
  }
  static std::pair<int32_t, int32_t> sums_of_32(const int8_t* p) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i biased = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    const __m256i eights = _mm256_sad_epu8(biased, _mm256_setzero_si256());
    const __m256i sums = _mm256_add_epi64(eights, _mm256_unpackhi_epi64(eights, eights));
    return {_mm256_extract_epi32(sums, 0) - 16 * 128, _mm256_extract_epi32(sums, 4) - 16 * 128};
  }

  static U8 load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
  static void store_bytes(void* p, U8 a) { _mm512_storeu_si512(p, a.v); }
  template <typename RowOf, typename Put>
  static void transpose(const RowOf& row_of, const Put& put) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; ++i) b[i] = _mm512_loadu_si512(row_of(i));
    for (int i = 0; i < 16; i += 2) {
      a[i] = _mm512_unpacklo_epi32(b[i], b[i + 1]);
      a[i + 1] = _mm512_unpackhi_epi32(b[i], b[i + 1]);
    }
    for (int i = 0; i < 16;
         i += 4) {  // b[i + j]: dwords j, 4 + j, 8 + j, 12 + j of rows i .. i + 3
      b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
      b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
      b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
      b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4  // put() wants constants
    for (int j = 0; j < 4; ++j) {
      const __m512i even_a = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
      const __m512i even_b = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
      const __m512i odd_a = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
      const __m512i odd_b = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
      put(j, U8{_mm512_shuffle_i32x4(even_a, even_b, 0x88)});
      put(4 + j, U8{_mm512_shuffle_i32x4(odd_a, odd_b, 0x88)});
      put(8 + j, U8{_mm512_shuffle_i32x4(even_a, even_b, 0xdd)});
      put(12 + j, U8{_mm512_shuffle_i32x4(odd_a, odd_b, 0xdd)});
    }
  }
  static U8 low_nibbles(U8 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
  static U8 high_nibbles(U8 a) {
    return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
  }
  static U8 add_16(U8 a, uint64_t where) {
    return {_mm512_mask_add_epi8(a.v, where, a.v, _mm512_set1_epi8(16))};
  }
  template <int kField>
  static U8 add_bits45(U8 a, U8 plane) {
    __m512i bits;
    if constexpr (kField < 2)
      bits = _mm512_slli_epi16(plane.v, 4 - 2 * kField);
    else
      bits = _mm512_srli_epi16(plane.v, 2 * kField - 4);
    return {_mm512_or_si512(a.v, _mm512_and_si512(bits, _mm512_set1_epi8(0x30)))};
  }
  static I32 dot(I32 acc, U8 a, U8 b) { return {_mm512_dpbusd_epi32(acc.v, a.v, b.v)}; }
  static I32 dot_7_bits(I32 acc, U8 a, U8 b) { return dot(acc, a, b); }
  static U8 set_quad(const int8_t* quad) {
    int32_t four;
    std::memcpy(&four, quad, 4);
    return {_mm512_set1_epi32(four)};
  }
};

}  // namespace f1::cpu
