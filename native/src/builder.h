// Turns a file's operations into steps, and checks that none of them leaves its buffers.
#pragma once
#include <utility>
#include <vector>

#include "file.h"
#include "kernels.h"
#include "model.h"

namespace bibench {

class Builder {
 public:
  Builder(const File& file, Model& model) : file_(file), model_(model) {}
  void build();

 private:
  struct Map {  // of bits or padded pixels
    int top, left, rows, columns;
  };

  struct Window {
    int in_h, in_w, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w, out_h, out_w;
    // Rows and columns of the input that the windows reach, padding at top and left included.
    int64_t rows() const { return reach(out_h, stride_h, kernel_h, dilation_h); }
    int64_t columns() const { return reach(out_w, stride_w, kernel_w, dilation_w); }
    static int64_t reach(int64_t out, int64_t stride, int64_t kernel, int64_t dilation) {
      return (out - 1) * stride + (kernel - 1) * dilation + 1;
    }
  };

  struct Classes {  // which taps of each output position lie outside the input, along one dimension
    std::vector<std::pair<int, int>> inside;  // first and last tap inside, of each class
    const uint8_t* of = nullptr;
  };

  // Checks of the present operation: its parameter, value or constant number i.
  [[noreturn]] BIBENCH_PRINTF(2, 3) void fail(const char* format, ...) const;

  int size(int i, int least = 1, int most = kMostSize) const;
  bool has(int i) const { return op_->values[i] != -1; }
  bool has_constant(int i) const { return op_->constants[i] != -1; }
  int value(int i, uint32_t type, Size count, bool written = false) const;
  const uint8_t* constant(int i, uint32_t type, Size count) const;
  // Takes down how many steps the present operation has.
  void work(Size steps);
  // A constant's floats with a block behind them, or so many of one number where there is none.
  const float* channel(int i, Size count, float otherwise);
  // The map that parameters first to first + 3 describe; it holds so many pixels with so much padding before them.
  Map padded(int first, int rows, int columns, int top = 0, int left = 0) const;

  Step step();
  Step copy();
  Step pack();
  Step conv(Product product);
  Step pool();
  Step bit_pool();
  Step map();
  Step binary();
  Step unary();
  Step matmul();
  Step binary_matmul();
  Step softmax();
  Step layer_norm();
  Step mean();
  Step embed();
  Step quantize();
  template <class Function>
  Step rows_of(bool reduces, Function f);

  const uint8_t* one_class(int size);
  Classes classes(int in, int kernel, int stride, int dilation, int pad, int out);
  void weights(Conv& c, const Window& w, Product product, int inside, Size taps);

  static int pixel_words(int channels, int groups);
  // Whether every window has a pixel of the input, along one dimension.
  static bool touches(int in, int kernel, int stride, int dilation, int pad, int out);
  // The part of an output's bits that no pixel covers becomes 0.
  static void clear_border(uint32_t* bits, int words, const Map& m, int rows, int columns);

  // Refuses an operation that writes over what it reads, or twice to one place.
  void check_overlap() const;

  struct Use {
    int slot, index;
    bool written;
  };
  mutable std::vector<Use> used_;  // the present operation's values
  const File& file_;
  Model& model_;
  size_t number_ = 0;
  Size steps_ = 0;
  const Record* op_ = nullptr;
};

}  // namespace bibench
