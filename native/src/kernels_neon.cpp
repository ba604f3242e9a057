// NEON of 64-bit ARM.
#include <arm_neon.h>

#include <cstdint>

#define BIBENCH_UNROLL _Pragma("GCC unroll 14")  // of loops over registers, which must not be in memory

namespace bibench {
namespace {

struct Isa {
  static constexpr int kLanes = 4, kRegs = 4;
  static constexpr const char* kName = "neon";
  using F = float32x4_t;
  using U = uint32x4_t;

  static F load(const float* p) { return vld1q_f32(p); }
  static F load_n(const float* p, int n) {
    float v[4] = {};
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return vld1q_f32(v);
  }
  static void store(float* p, F v) { vst1q_f32(p, v); }
  static void store_n(float* p, F v, int n) {
    float all[4];
    vst1q_f32(all, v);
    for (int i = 0; i < n; ++i) p[i] = all[i];
  }
  static F set1(float x) { return vdupq_n_f32(x); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F divide(F a, F b) { return vdivq_f32(a, b); }
  static F most(F a, F b) { return vmaxq_f32(a, b); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F clamp(F v, F low, F high) { return vminq_f32(vmaxq_f32(v, low), high); }  // a NaN stays
  static F prelu(F v, F slope) { return vbslq_f32(vcgeq_f32(v, vdupq_n_f32(0)), v, vmulq_f32(v, slope)); }
  static uint32_t below(F v, F t) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    return vaddvq_u32(vbicq_u32(vld1q_u32(weights), vcgeq_f32(v, t)));
  }
  static U set1_u32(uint32_t x) { return vdupq_n_u32(x); }
  static F to_float(const int32_t* base, U count, int shift) {
    const int32x4_t shifted = vshlq_s32(vreinterpretq_s32_u32(count), vdupq_n_s32(shift));
    return vcvtq_f32_s32(vsubq_s32(vld1q_s32(base), shifted));
  }
  static U add_bits(U acc, uint32_t bits) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    return vsubq_u32(acc, vtstq_u32(vdupq_n_u32(bits), vld1q_u32(weights)));
  }
  static void opaque(U& x) { asm volatile("" : "+w"(x)); }
  static void opaque(F& x) { asm volatile("" : "+w"(x)); }

  struct Binary {
    static constexpr int kFlush = 31, kPixels = 4;  // a byte gets at most 8 from each word
    static constexpr bool kCounts = true;
    using Acc = U;
    using Part = U;
    using W = U;
    static Acc zero() { return vdupq_n_u32(0); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return vld1q_u32(p); }
    static W broadcast(uint32_t x) { return vdupq_n_u32(x); }
    static Part step(Part part, W x, W w) {
      const uint8x16_t ones = vcntq_u8(vreinterpretq_u8_u32(veorq_u32(x, w)));
      return vreinterpretq_u32_u8(vaddq_u8(vreinterpretq_u8_u32(part), ones));
    }
    static void flush(Acc& acc, Part& part) {
      acc = vpadalq_u16(acc, vpaddlq_u8(vreinterpretq_u8_u32(part)));
      part = zero();
    }
    static F to_float(const int32_t* base, Acc acc, int shift) { return Isa::to_float(base, acc, shift); }
  };

  struct Float {
    static constexpr int kFlush = 0, kPixels = 5;
    static constexpr bool kCounts = false;
    using Acc = F;
    using Part = F;
    using W = F;
    static Acc zero() { return vdupq_n_f32(0); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return vreinterpretq_f32_u32(vld1q_u32(p)); }
    static W broadcast(uint32_t x) { return vreinterpretq_f32_u32(vdupq_n_u32(x)); }
    static Acc step(Acc acc, W x, W w) { return vfmaq_f32(acc, x, w); }
  };

  struct Int8 {
    static constexpr int kFlush = 0, kPixels = 4;
    static constexpr bool kCounts = true;
    using Acc = U;
    using Part = U;
    using W = U;
    static Acc zero() { return vdupq_n_u32(0); }
    static Part part_zero() { return zero(); }
    static W weight(const uint32_t* p) { return vld1q_u32(p); }
    static W broadcast(uint32_t x) { return vdupq_n_u32(x); }
    // Four products a lane, as 16-bit numbers; the dot-product instructions are not on every processor.
    static Acc step(Acc acc, W x, W w) {
      const uint8x16_t a = vreinterpretq_u8_u32(x);
      const int8x16_t b = vreinterpretq_s8_u32(w);
      const int16x8_t a0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a)));
      const int16x8_t a1 = vreinterpretq_s16_u16(vmovl_high_u8(a));
      const int16x8_t b0 = vmovl_s8(vget_low_s8(b)), b1 = vmovl_high_s8(b);
      const int32x4_t p0 = vmull_s16(vget_low_s16(a0), vget_low_s16(b0)), p1 = vmull_high_s16(a0, b0);
      const int32x4_t p2 = vmull_s16(vget_low_s16(a1), vget_low_s16(b1)), p3 = vmull_high_s16(a1, b1);
      const int32x4_t lanes = vpaddq_s32(vpaddq_s32(p0, p1), vpaddq_s32(p2, p3));
      return vaddq_u32(acc, vreinterpretq_u32_s32(lanes));
    }
    static F to_float(const int32_t* base, Acc acc, int) {
      return vcvtq_f32_s32(vaddq_s32(vld1q_s32(base), vreinterpretq_s32_u32(acc)));
    }
  };
};

}  // namespace
}  // namespace bibench

#include "kernels.inc"

namespace bibench {
const Kernels* neon_kernels() { return &kKernels; }
}  // namespace bibench
