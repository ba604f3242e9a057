// For every processor: the compiler's own vectors of 16 bytes, and no instruction that the oldest ones lack.
#include <cstdint>

#define BIBENCH_UNROLL _Pragma("GCC unroll 14")  // of loops over registers, which must not be in memory

namespace bibench {
namespace {

struct Isa {
  static constexpr int kLanes = 4, kRegs = 2;
  static constexpr const char* kName = "scalar";
  typedef float F __attribute__((vector_size(16)));
  typedef uint32_t U __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));

  static F load(const float* p) { return from<F>(p); }
  static F load_n(const float* p, int n) {
    F v = {};
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return v;
  }
  static void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
  static void store_n(float* p, F v, int n) {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  static F set1(float x) { return F{x, x, x, x}; }
  static F mul(F a, F b) { return a * b; }
  static F divide(F a, F b) { return a / b; }
  static F most(F a, F b) { return ((b > a) | (b != b)) ? b : a; }
  static F add(F a, F b) { return a + b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  static F clamp(F v, F low, F high) {  // a NaN stays
    v = v < low ? low : v;
    return v > high ? high : v;
  }
  static F prelu(F v, F slope) { return v >= 0 ? v : v * slope; }
  static uint32_t below(F v, F t) {
    const I at_least = v >= t;  // all bits of a lane, or none
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= (~static_cast<uint32_t>(at_least[i]) & 1) << i;
    return bits;
  }
  static U set1_u32(uint32_t x) { return U{x, x, x, x}; }
  static F to_float(const int32_t* base, U count, int shift) {
    return __builtin_convertvector(from<I>(base) - reinterpret_cast<I>(count << shift), F);
  }
  static U add_bits(U acc, uint32_t bits) { return acc + ((set1_u32(bits) >> U{0, 1, 2, 3}) & 1); }
  template <class T>
  static void opaque(T& x) {
    asm volatile("" : "+m"(x));
  }
  template <class T>
  static T from(const void* p) {
    T v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }

  struct Binary {
    static constexpr int kFlush = 31, kPixels = 3;  // a byte gets at most 8 from each word
    static constexpr bool kCounts = true;
    using Acc = U;
    using Part = U;
    using W = U;
    static Acc zero() { return U{}; }
    static Part part_zero() { return U{}; }
    static W weight(const uint32_t* p) { return from<U>(p); }
    static W broadcast(uint32_t x) { return set1_u32(x); }
    static Part step(Part part, W x, W w) {
      U bits = x ^ w;
      bits -= (bits >> 1) & 0x55555555u;
      bits = (bits & 0x33333333u) + ((bits >> 2) & 0x33333333u);
      return part + ((bits + (bits >> 4)) & 0x0f0f0f0fu);
    }
    static void flush(Acc& acc, Part& part) {
      const U pairs = (part & 0x00ff00ffu) + ((part >> 8) & 0x00ff00ffu);
      acc += (pairs & 0xffffu) + (pairs >> 16);
      part = U{};
    }
    static F to_float(const int32_t* base, Acc acc, int shift) { return Isa::to_float(base, acc, shift); }
  };

  struct Float {
    static constexpr int kFlush = 0, kPixels = 5;
    static constexpr bool kCounts = false;
    using Acc = F;
    using Part = F;
    using W = F;
    static Acc zero() { return F{}; }
    static Part part_zero() { return F{}; }
    static W weight(const uint32_t* p) { return from<F>(p); }
    static W broadcast(uint32_t x) { return reinterpret_cast<F>(set1_u32(x)); }
    static Acc step(Acc acc, W x, W w) { return fma(x, w, acc); }
  };

  struct Int8 {
    static constexpr int kFlush = 0, kPixels = 3;
    static constexpr bool kCounts = true;
    using Acc = I;
    using Part = I;
    using W = U;
    static Acc zero() { return I{}; }
    static Part part_zero() { return I{}; }
    static W weight(const uint32_t* p) { return from<U>(p); }
    static W broadcast(uint32_t x) { return set1_u32(x); }
    static Acc step(Acc acc, W x, W w) {
      const I signed_w = reinterpret_cast<I>(w);
      acc += reinterpret_cast<I>(x & 255) * ((signed_w << 24) >> 24);
      acc += reinterpret_cast<I>((x >> 8) & 255) * ((signed_w << 16) >> 24);
      acc += reinterpret_cast<I>((x >> 16) & 255) * ((signed_w << 8) >> 24);
      return acc + reinterpret_cast<I>(x >> 24) * (signed_w >> 24);
    }
    static F to_float(const int32_t* base, Acc acc, int) { return __builtin_convertvector(from<I>(base) + acc, F); }
  };
};

}  // namespace
}  // namespace bibench

#include "kernels.inc"

namespace bibench {
const Kernels* scalar_kernels() { return &kKernels; }
}  // namespace bibench
