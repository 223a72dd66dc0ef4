// Half-wide floats as memory holds them; all arithmetic is in f32.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define F1_HOST_DEVICE __host__ __device__
#else
#define F1_HOST_DEVICE
#endif

namespace f1::cuda {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

F1_HOST_DEVICE inline float to_float(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// To the nearest, ties to even; every NaN becomes one.
F1_HOST_DEVICE inline Bf16 to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

}  // namespace f1::cuda
