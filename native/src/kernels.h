// What a unit of kernels offers, and the arguments of its functions. Each unit is compiled for one instruction set from
// the same source (kernels.inc); the engine picks one at load. All sizes have been checked by the engine.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bibench {

constexpr int kBlock = 32;  // output channels that lie side by side in the weights: one word of output bits

enum class Product { kBinary, kFloat, kInt8 };

// Convolution with its epilogue. Input, weights and sums are 32-bit words: 32 bits, a float, or 4 bytes. Weights are
// [group][block][tap][word][32]; arrays by output channel are 32 longer than there are channels.
struct Conv {
  Product product = Product::kFloat;
  bool depthwise = false;  // weights are [tap][word or channel]
  int groups = 1, outputs = 1, group_outputs = 1, group_blocks = 1;
  int kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int out_h = 1, out_w = 1;
  int map_w = 1;                   // width of the padded input, in pixels
  int pixel_words = 1, words = 1;  // of a pixel, and of one group of it
  const uint32_t* weights = nullptr;
  // Binary and int8: sum = base[row class · column classes + column class][o] - (count << shift), or + count.
  const int32_t* base = nullptr;
  const uint8_t* row_class = nullptr;
  const uint8_t* column_class = nullptr;
  int column_classes = 1;
  size_t base_stride = 0;
  int shift = 1;
  bool base_classes = false;  // whether there is more than one of them
  // Epilogue
  const float* multiplier = nullptr;
  const float* bias = nullptr;
  const float* slope = nullptr;
  const float* threshold = nullptr;
  int act = 0;
  float low = 0, high = 0;
  int maps = 0;  // of the position map: 0 none, -1 one number, 1 or as many as groups
  int out_map_w = 1, out_words = 0, out_top = 0, out_left = 0;  // of the output's bits
  // Set for each run
  const uint32_t* input = nullptr;  // the pixel at which the first window begins
  const float* residual = nullptr;
  const float* position = nullptr;
  float* output = nullptr;
  uint32_t* bits = nullptr;
};

struct Pool {
  int kind, in_h, in_w, channels, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w, dilation_h,
      dilation_w;
};

struct BitPool {
  int in_h, in_w, words, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w, dilation_h, dilation_w;
  int in_map_w, in_top, in_left, out_map_w, out_top, out_left;
};

struct Pack {
  int rows, columns, channels, groups, map_w, top, left;
  const float* threshold;  // 32 longer than there are channels
};

// Every function does the part [begin, end) of its work, so that threads can share it.
double now();  // seconds of a clock that only goes forward

struct Kernels {
  const char* name;
  // Parts: group · block · row.
  void (*conv)(const Conv&, size_t begin, size_t end);
  // Parts: rows.
  void (*pack)(const Pack&, const float* in, uint32_t* out, size_t begin, size_t end);
  void (*pool)(const Pool&, const float* in, float* out, size_t begin, size_t end);
  void (*bit_pool)(const BitPool&, const uint32_t* in, uint32_t* out, size_t begin, size_t end);
  // Mean of |x| over each group's channels. Parts: pixels.
  void (*magnitude)(const float* in, float* out, int groups, int group_channels, size_t begin, size_t end);
  // Elementwise on contiguous memory; kinds as in the format. stride_b 0: b is one number.
  void (*binary)(int kind, const float* a, const float* b, int stride_b, float* out, size_t count);
  void (*gelu)(const float* in, float* out, size_t count);  // out may be in
  // Rows [begin, end) of a · b.
  void (*matmul)(const float* a, const float* b, float* out, int inner, int columns, bool transposed, size_t begin,
                 size_t end);
  // Set bits of a ^ b, ~a & b, and a | b.
  void (*counts)(const uint32_t* a, const uint32_t* b, int words, uint32_t* exclusive, uint32_t* right,
                 uint32_t* either);
  void (*quantize)(const float* in, size_t stride, uint8_t* out, int channels, int columns, size_t column_stride,
                   float factor, int zero);
  double (*peak)(Product, double seconds);
};

const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();

}  // namespace bibench
