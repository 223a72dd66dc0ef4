// Functions that all kernels share, over a Lanes type.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace f1::cpu {

// function(0), ..., function(kTimes - 1), each with its own constant: arrays indexed by it become
// registers for sure.
template <int kTimes, typename Function>
[[gnu::always_inline]] inline void repeat(const Function& function) {
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) {
    (function(std::integral_constant<int, kIndex>()), ...);
  }(std::make_integer_sequence<int, kTimes>());
}

template <typename L>
struct LaneMath {
  using F32 = typename L::F32;

  static int lanes_left(int64_t left) { return left < 16 ? static_cast<int>(left) : 16; }

  // exp by 2^n * polynomial (Cephes' expf); relative error about 2e-7 down to 2^-126, below which
  // 0's neighbour is returned.
  static F32 exp(F32 x) {
    x = L::max(L::min(x, L::set(88.0f)), L::set(-87.0f));
    const F32 n = L::round(L::mul(x, L::set(1.44269504088896341f)));
    F32 r = L::fma(n, L::set(-0.693359375f), x);
    r = L::fma(n, L::set(2.12194440e-4f), r);
    F32 p = L::set(1.9875691500e-4f);
    p = L::fma(p, r, L::set(1.3981999507e-3f));
    p = L::fma(p, r, L::set(8.3334519073e-3f));
    p = L::fma(p, r, L::set(4.1665795894e-2f));
    p = L::fma(p, r, L::set(1.6666665459e-1f));
    p = L::fma(p, r, L::set(5.0000001201e-1f));
    p = L::add(L::fma(p, L::mul(r, r), r), L::set(1.0f));
    return L::times_power_of_2(p, n);
  }
  static float exp_of(float x) {
    float lanes[16];
    L::store(lanes, exp(L::set(x)));
    return lanes[0];
  }
};

}  // namespace f1::cpu
