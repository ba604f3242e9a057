// AVX2 with FMA (Haswell, Zen and later).
#include <immintrin.h>

#include <cstdint>

#define BIBENCH_UNROLL _Pragma("GCC unroll 14")  // of loops over registers, which must not be in memory

namespace bibench {
namespace {

struct Isa {
  static constexpr int kLanes = 8, kRegs = 2;
  static constexpr const char* kName = "avx2";
  using F = __m256;
  using U = __m256i;

  static U lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static U first(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes()); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void store_n(float* p, F v, int n) { _mm256_maskstore_ps(p, first(n), v); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F divide(F a, F b) { return _mm256_div_ps(a, b); }
  static F most(F a, F b) { return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  // The second operand is returned where one is NaN, so a NaN value stays.
  static F clamp(F v, F low, F high) { return _mm256_min_ps(high, _mm256_max_ps(low, v)); }
  static F prelu(F v, F slope) {
    return _mm256_blendv_ps(v, _mm256_mul_ps(v, slope), _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NGE_UQ));
  }
  static uint32_t below(F v, F t) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, t, _CMP_NGE_UQ)));
  }
  static U set1_u32(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static U load_i32(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static F to_float(const int32_t* base, U count, int shift) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(load_i32(base), shift ? _mm256_add_epi32(count, count) : count));
  }
  static U add_bits(U acc, uint32_t bits) {
    const U bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_sub_epi32(acc, _mm256_cmpeq_epi32(_mm256_and_si256(set1_u32(bits), bit), bit));
  }
  static void opaque(U& x) { asm volatile("" : "+x"(x)); }
  static void opaque(F& x) { asm volatile("" : "+x"(x)); }

  struct Binary {
    // A byte gets at most 8 from each word.
    static constexpr int kFlush = 31, kPixels = 4;
    static constexpr bool kCounts = true;
    using Acc = U;
    using Part = U;
    using W = U;
    static Acc zero() { return _mm256_setzero_si256(); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static W broadcast(uint32_t x) { return set1_u32(x); }
    static Part step(Part part, W x, W w) {
      const U table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2,
                                       3, 2, 3, 3, 4);
      const U nibble = _mm256_set1_epi8(15);
      const U bits = _mm256_xor_si256(x, w);
      const U low = _mm256_shuffle_epi8(table, _mm256_and_si256(bits, nibble));
      const U high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi32(bits, 4), nibble));
      return _mm256_add_epi8(_mm256_add_epi8(part, low), high);
    }
    static void flush(Acc& acc, Part& part) {
      const U pairs = _mm256_maddubs_epi16(part, _mm256_set1_epi8(1));
      acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
      part = _mm256_setzero_si256();
    }
    static F to_float(const int32_t* base, Acc acc, int shift) { return Isa::to_float(base, acc, shift); }
  };

  struct Float {
    static constexpr int kFlush = 0, kPixels = 6;
    static constexpr bool kCounts = false;
    using Acc = F;
    using Part = F;
    using W = F;
    static Acc zero() { return _mm256_setzero_ps(); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
    static W broadcast(uint32_t x) { return _mm256_castsi256_ps(set1_u32(x)); }
    static Acc step(Acc acc, W x, W w) { return _mm256_fmadd_ps(x, w, acc); }
  };

  struct Int8 {
    static constexpr int kFlush = 0, kPixels = 4;
    static constexpr bool kCounts = true;
    using Acc = U;
    using Part = U;
    using W = U;
    static Acc zero() { return _mm256_setzero_si256(); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static W broadcast(uint32_t x) { return set1_u32(x); }
    // Even and odd bytes as 16-bit numbers: maddubs would saturate.
    static Acc step(Acc acc, W x, W w) {
      const U bytes = _mm256_set1_epi16(0xff);
      const U even = _mm256_madd_epi16(_mm256_and_si256(x, bytes), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
      const U odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
      return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
    }
    static F to_float(const int32_t* base, Acc acc, int) {
      return _mm256_cvtepi32_ps(_mm256_add_epi32(load_i32(base), acc));
    }
  };
};

}  // namespace
}  // namespace bibench

#include "kernels.inc"

namespace bibench {
const Kernels* avx2_kernels() { return &kKernels; }
}  // namespace bibench
