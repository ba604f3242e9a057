// AVX-512 with VPOPCNTDQ and VNNI (Ice Lake, Zen 4 and later).
#include <immintrin.h>

#include <cstdint>

#define BIBENCH_UNROLL _Pragma("GCC unroll 14")  // of loops over registers, which must not be in memory

namespace bibench {
namespace {

struct Isa {
  static constexpr int kLanes = 16, kRegs = 2;
  static constexpr const char* kName = "avx512";
  using F = __m512;
  using U = __m512i;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void store_n(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F divide(F a, F b) { return _mm512_div_ps(a, b); }
  static F most(F a, F b) { return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // The second operand is returned where one is NaN, so a NaN value stays.
  static F clamp(F v, F low, F high) { return _mm512_min_ps(high, _mm512_max_ps(low, v)); }
  static F prelu(F v, F slope) {
    return _mm512_mask_mul_ps(v, _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NGE_UQ), v, slope);
  }
  static uint32_t below(F v, F t) { return _mm512_cmp_ps_mask(v, t, _CMP_NGE_UQ); }
  static U set1_u32(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static F to_float(const int32_t* base, U count, int shift) {
    const U shifted = shift ? _mm512_add_epi32(count, count) : count;
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(base), shifted));
  }
  static U add_bits(U acc, uint32_t bits) {
    return _mm512_mask_add_epi32(acc, static_cast<__mmask16>(bits), acc, _mm512_set1_epi32(1));
  }
  static void opaque(U& x) { asm volatile("" : "+v"(x)); }
  static void opaque(F& x) { asm volatile("" : "+v"(x)); }

  struct Binary {
    static constexpr int kFlush = 0, kPixels = 14;
    static constexpr bool kCounts = true;
    using Acc = U;
    using Part = U;
    using W = U;
    static Acc zero() { return _mm512_setzero_si512(); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return _mm512_loadu_si512(p); }
    static W broadcast(uint32_t x) { return set1_u32(x); }
    static Acc step(Acc acc, W x, W w) { return _mm512_add_epi32(acc, _mm512_popcnt_epi32(_mm512_xor_si512(x, w))); }
    static F to_float(const int32_t* base, Acc acc, int shift) { return Isa::to_float(base, acc, shift); }
  };

  struct Float {
    static constexpr int kFlush = 0, kPixels = 14;
    static constexpr bool kCounts = false;
    using Acc = F;
    using Part = F;
    using W = F;
    static Acc zero() { return _mm512_setzero_ps(); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return _mm512_loadu_ps(p); }
    static W broadcast(uint32_t x) { return _mm512_castsi512_ps(set1_u32(x)); }
    static Acc step(Acc acc, W x, W w) { return _mm512_fmadd_ps(x, w, acc); }
  };

  struct Int8 {
    static constexpr int kFlush = 0, kPixels = 14;
    static constexpr bool kCounts = true;
    using Acc = U;
    using Part = U;
    using W = U;
    static Acc zero() { return _mm512_setzero_si512(); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return _mm512_loadu_si512(p); }
    static W broadcast(uint32_t x) { return set1_u32(x); }
    static Acc step(Acc acc, W x, W w) { return _mm512_dpbusd_epi32(acc, x, w); }
    static F to_float(const int32_t* base, Acc acc, int) {
      return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(base), acc));
    }
  };
};

}  // namespace
}  // namespace bibench

#include "kernels.inc"

namespace bibench {
const Kernels* avx512_kernels() { return &kKernels; }
}  // namespace bibench
