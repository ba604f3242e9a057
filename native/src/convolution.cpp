// Convolutions: their weights as the kernels want them, and what puts their borders right.
#include <algorithm>
#include <cstring>
#include <limits>

#include "builder.h"

namespace bibench {
namespace {

void share_row(Model& m, const Conv& run, size_t parts) {
  m.team.share(static_cast<size_t>(run.out_w), [&](size_t begin, size_t end) {
    Conv part = run;
    part.out_w = static_cast<int>(end - begin);
    part.input += begin * run.stride_w * run.pixel_words;
    const size_t outputs = static_cast<size_t>(run.outputs);
    if (part.residual) part.residual += begin * outputs;
    if (part.output) part.output += begin * outputs;
    if (part.position && run.maps > 0) part.position += begin * run.maps;
    if (part.column_class) part.column_class += begin;
    part.out_left += static_cast<int>(begin);
    m.kernels->conv(part, 0, parts);
  });
}

}  // namespace

Step Builder::conv(Product product) {
  Window w{size(0), size(1),  size(5),     size(6),     size(7),  size(8),
           size(9), size(10), size(11, 0), size(12, 0), size(13), size(14)};
  const int channels = size(2), groups = size(3, 1, channels), outputs = size(4);
  if (channels % groups || outputs % groups) fail("%d channels to %d in %d groups", channels, outputs, groups);
  const Map in_map = padded(15, w.in_h, w.in_w, w.pad_h, w.pad_w);
  if (in_map.top - w.pad_h + w.rows() > in_map.rows || in_map.left - w.pad_w + w.columns() > in_map.columns)
    fail("the last window ends outside the input's map");
  const int inside = channels / groups;
  const bool binary = product == Product::kBinary, bytes = product == Product::kInt8;
  if (bytes && groups != 1) fail("int8 has no groups, found %d", groups);

  Conv c;
  c.product = product;
  c.depthwise = groups == channels && groups == outputs && !bytes && groups > 1;
  c.groups = groups;
  c.outputs = outputs;
  c.group_outputs = outputs / groups;
  c.group_blocks = static_cast<int>(ceil_div(c.depthwise ? outputs : c.group_outputs, kBlock));
  c.kernel_h = w.kernel_h;
  c.kernel_w = w.kernel_w;
  c.stride_h = w.stride_h;
  c.stride_w = w.stride_w;
  c.dilation_h = w.dilation_h;
  c.dilation_w = w.dilation_w;
  c.out_h = w.out_h;
  c.out_w = w.out_w;
  c.map_w = in_map.columns;
  c.words = binary ? (inside + 31) / 32 : bytes ? (inside + 3) / 4 : inside;
  c.pixel_words = binary ? pixel_words(channels, groups) : bytes ? c.words : channels;
  const Size taps = times(w.kernel_h, w.kernel_w);
  work(times(w.out_h, w.out_w, outputs, taps, c.words));
  if (times(taps, inside) > kMostSize) fail("a window of more than %d numbers, past what float32 counts", kMostSize);

  // Values
  const uint32_t in_type = binary ? kBits : bytes ? kUint8 : kFloat32;
  const Size out_count = times(w.out_h, w.out_w, outputs);
  const int in = value(0, in_type, times(in_map.rows, in_map.columns, c.pixel_words, bytes ? 4 : 1));
  const int residual = has(1) ? value(1, kFloat32, out_count) : -1;
  c.maps = size(26, -1, std::max(1, groups));
  if (c.maps > 1 && c.maps != groups) fail("%d position maps for %d groups", c.maps, groups);
  const Size positions = c.maps < 0 ? 1 : times(w.out_h, w.out_w, c.maps);
  if ((has(2) || has_constant(5)) != (c.maps != 0) || (has(2) && has_constant(5)))
    fail("parameter 26 is %d, and the position map doesn't fit it", c.maps);
  const int position = has(2) ? value(2, kFloat32, positions) : -1;
  const float* fixed = has_constant(5) ? channel(5, positions, 0) : nullptr;
  const int out = has(3) ? value(3, kFloat32, out_count, true) : -1;
  const int bits = has(4) ? 1 : -1;
  if (out < 0 && bits < 0) fail("it has no output");
  Map out_map{};
  int out_bits = -1;
  if (bits > 0) {
    if (groups > 1 && !c.depthwise && c.group_outputs % 32) fail("bits from groups of %d outputs", c.group_outputs);
    out_map = padded(22, w.out_h, w.out_w);
    c.out_words = static_cast<int>(ceil_div(outputs, 32));
    out_bits = value(4, kBits, times(out_map.rows, out_map.columns, c.out_words), true);
    c.out_top = out_map.top;
    c.out_left = out_map.left;
    c.out_map_w = out_map.columns;
  }

  // Epilogue
  c.multiplier = channel(1, outputs, 1);
  c.bias = channel(2, outputs, 0);
  c.act = size(21, 0, 2);
  if (c.act == 2) c.slope = channel(3, outputs, 0);
  c.threshold = channel(4, outputs, 0);
  c.low = op_->f[0];
  c.high = op_->f[1];

  weights(c, w, product, inside, taps);
  // A window's row lies in one piece in memory: one long tap.
  if (!c.depthwise && w.dilation_w == 1 && c.pixel_words == c.words) {
    c.words *= c.kernel_w;
    c.kernel_w = 1;
  }
  // A 1x1 convolution of whole maps is one long row, which leaves no tile half full.
  if (taps == 1 && w.stride_h == 1 && w.stride_w == 1 && in_map.columns == w.in_w && w.in_w == w.out_w &&
      !c.base_classes && (bits < 0 || (out_map.columns == w.out_w && out_map.rows == w.out_h)) && w.out_h > 1 &&
      times(w.out_h, w.out_w) <= static_cast<Size>(kMostSize)) {
    c.out_w *= c.out_h;
    c.out_h = 1;
    c.map_w = c.out_map_w = c.out_w;
    if (c.base) c.column_class = one_class(c.out_w);
  }
  const size_t parts = static_cast<size_t>(c.depthwise ? 1 : groups) * c.group_blocks * c.out_h;
  const size_t first =
      (static_cast<size_t>(in_map.top - w.pad_h) * in_map.columns + (in_map.left - w.pad_w)) * c.pixel_words;
  const int rows = w.out_h, columns = w.out_w;
  return [=](Model& m) {
    Conv run = c;
    run.input = m.at<uint32_t>(in) + first;
    run.residual = residual < 0 ? nullptr : m.at<float>(residual);
    run.position = position < 0 ? fixed : m.at<float>(position);
    run.output = out < 0 ? nullptr : m.at<float>(out);
    if (out_bits >= 0) {
      run.bits = m.at<uint32_t>(out_bits);
      clear_border(run.bits, c.out_words, out_map, rows, columns);
    }
    // Rows are shared where there are enough of them, since blocks of one pixel's bits lie in one line of the cache;
    // else a single row's pixels, or blocks.
    const size_t height = static_cast<size_t>(run.out_h), threads = static_cast<size_t>(m.team.threads());
    if (height % threads == 0 || height >= 8 * threads) {
      m.team.share(height, [&](size_t begin, size_t end) {
        for (size_t first_row = 0; first_row < parts; first_row += height)
          m.kernels->conv(run, first_row + begin, first_row + end);
      });
    } else if (height == 1 && static_cast<size_t>(run.out_w) >= 8 * threads) {
      share_row(m, run, parts);
    } else {
      m.team.share(parts, [&](size_t begin, size_t end) { m.kernels->conv(run, begin, end); });
    }
  };
}

const uint8_t* Builder::one_class(int size) {
  model_.classes.emplace_back(size, uint8_t{0});
  return model_.classes.back().data();
}

Builder::Classes Builder::classes(int in, int kernel, int stride, int dilation, int pad, int out) {
  Classes found;
  std::vector<uint8_t> of(out);
  for (int64_t o = 0; o < out; ++o) {
    const int64_t start = o * stride - pad;
    const int64_t first = start < 0 ? std::min<int64_t>((-start + dilation - 1) / dilation, kernel) : 0;
    const int64_t last = start >= in ? 0 : std::min<int64_t>((in - 1 - start) / dilation + 1, kernel);
    const std::pair<int, int> range(static_cast<int>(first), static_cast<int>(std::max(first, last)));
    size_t i = 0;
    while (i < found.inside.size() && found.inside[i] != range) ++i;
    if (i == found.inside.size()) found.inside.push_back(range);
    if (i > 255) fail("more than 256 kinds of borders");
    of[o] = static_cast<uint8_t>(i);
  }
  model_.classes.push_back(std::move(of));
  found.of = model_.classes.back().data();
  return found;
}

void Builder::weights(Conv& c, const Window& w, Product product, int inside, Size taps) {
  const bool binary = product == Product::kBinary, bytes = product == Product::kInt8;
  const int outputs = c.outputs;
  const Size filter = times(taps, bytes ? 4 * static_cast<Size>(c.words) : static_cast<Size>(inside));
  const uint8_t* from = constant(0, binary ? kBits : bytes ? kInt8 : kFloat32, times(outputs, filter));
  auto negative = [&](Size o, Size tap, Size channel) {
    const Size bit = o * filter + tap * inside + channel;
    return (from[bit / 8] >> (bit % 8)) & 1;
  };

  if (c.depthwise) {
    const Size stride = binary ? static_cast<Size>(c.pixel_words) : static_cast<Size>(c.group_blocks) * kBlock;
    std::vector<uint32_t> words(taps * stride);
    for (Size tap = 0; tap < taps; ++tap)
      for (int o = 0; o < outputs; ++o) {
        if (binary) {
          words[tap * stride + o / 32] |= static_cast<uint32_t>(negative(o, tap, 0)) << (o % 32);
        } else {
          std::memcpy(&words[tap * stride + o], from + 4 * (o * filter + tap), 4);
        }
      }
    model_.words.push_back(std::move(words));
  } else {
    const Size block = taps * c.words * kBlock;
    std::vector<uint32_t> words(static_cast<Size>(c.groups) * c.group_blocks * block);
    for (int o = 0; o < outputs; ++o) {
      const int group = o / c.group_outputs, within = o % c.group_outputs;
      uint32_t* to =
          words.data() + (static_cast<Size>(group) * c.group_blocks + within / kBlock) * block + within % kBlock;
      for (Size tap = 0; tap < taps; ++tap) {
        if (binary) {
          for (int i = 0; i < inside; ++i)
            to[(tap * c.words + i / 32) * kBlock] |= static_cast<uint32_t>(negative(o, tap, i)) << (i % 32);
        } else {
          for (int i = 0; i < c.words; ++i)
            std::memcpy(&to[(tap * c.words + i) * kBlock],
                        from + 4 * (o * (filter / (bytes ? 4 : 1)) + tap * c.words + i), 4);
        }
      }
    }
    model_.words.push_back(std::move(words));
  }
  c.weights = model_.words.back().data();
  if (!binary && !bytes) return;

  // What the sums start from: the kernel takes padding for +1 (bytes: for its value), this puts it right.
  const size_t stride = static_cast<size_t>(outputs) + kBlock;
  c.base_stride = stride;
  if (bytes) {
    const int zero = size(19, 0, 255);
    std::vector<int32_t> base(stride);
    for (int o = 0; o < outputs; ++o) {
      int64_t sum = 0;
      for (Size i = 0; i < filter; ++i) sum += static_cast<int8_t>(from[o * filter + i]);
      base[o] = static_cast<int32_t>(-zero * sum);
    }
    if (times(filter, 255 * 128) > static_cast<Size>(std::numeric_limits<int32_t>::max()))
      fail("a window too large for int8");
    model_.integers.push_back(std::move(base));
    c.base = model_.integers.back().data();
    c.row_class = one_class(w.out_h);
    c.column_class = one_class(w.out_w);
    return;
  }
  const int pad_value = size(19, -1, 1), operand = size(20, 0, 1);
  c.shift = operand ? 0 : 1;
  const bool correct = pad_value != 1;  // the kernel's own
  Classes rows, columns;
  if (correct) {
    rows = classes(w.in_h, w.kernel_h, w.stride_h, w.dilation_h, w.pad_h, w.out_h);
    columns = classes(w.in_w, w.kernel_w, w.stride_w, w.dilation_w, w.pad_w, w.out_w);
  } else {
    rows.inside = {{0, w.kernel_h}};
    columns.inside = {{0, w.kernel_w}};
    rows.of = one_class(w.out_h);
    columns.of = one_class(w.out_w);
  }
  const Size kinds = times(rows.inside.size(), columns.inside.size());
  if (times(kinds, stride) > (Size{1} << 28)) fail("too many kinds of borders");
  if (times(kinds, outputs, taps) > kMostWork) fail("too many kinds of borders");
  std::vector<int32_t> base(kinds * stride);
  const int64_t window = static_cast<int64_t>(taps) * inside;
  std::vector<int64_t> minus(taps);  // negative weights of each tap
  for (int o = 0; o < outputs; ++o) {
    int64_t all = 0;
    for (Size tap = 0; tap < taps; ++tap) {
      minus[tap] = 0;
      for (int i = 0; i < inside; ++i) minus[tap] += negative(o, tap, i);
      all += minus[tap];
    }
    for (size_t r = 0; r < rows.inside.size(); ++r)
      for (size_t k = 0; k < columns.inside.size(); ++k) {
        int64_t outside = 0, outside_minus = 0;  // weights, and negative ones, on padding
        for (int y = 0; y < w.kernel_h; ++y)
          for (int x = 0; x < w.kernel_w; ++x) {
            const bool in = y >= rows.inside[r].first && y < rows.inside[r].second && x >= columns.inside[k].first &&
                            x < columns.inside[k].second;
            if (in) continue;
            outside += inside;
            outside_minus += minus[static_cast<Size>(y) * w.kernel_w + x];
          }
        const int64_t sum = outside - 2 * outside_minus;  // of the weights on padding
        int64_t value = window;
        if (operand) {  // x = (s + 1) / 2 with s = +-1: (s·w + sum of w) / 2
          value = (window + (window - 2 * all)) / 2;
          if (pad_value != 1) value -= sum;
        } else if (pad_value == 0) {
          value -= sum;
        } else if (pad_value == -1) {
          value -= 2 * sum;
        }
        base[(r * columns.inside.size() + k) * stride + o] = static_cast<int32_t>(value);
      }
  }
  model_.integers.push_back(std::move(base));
  c.base = model_.integers.back().data();
  c.row_class = rows.of;
  c.column_class = columns.of;
  c.column_classes = static_cast<int>(columns.inside.size());
  c.base_classes = kinds > 1;
}

}  // namespace bibench
