// Operations on maps of pixels, other than convolutions.
#include <cstring>

#include "builder.h"

namespace bibench {
namespace {

template <class Window>
void box(const Window& w, int groups, float outside, const float* mean, float* out, size_t begin, size_t end) {
  const float size = static_cast<float>(w.kernel_h) * static_cast<float>(w.kernel_w);
  for (size_t row = begin; row < end; ++row)
    for (int column = 0; column < w.out_w; ++column)
      for (int g = 0; g < groups; ++g) {
        float sum = 0;
        for (int ky = 0; ky < w.kernel_h; ++ky) {
          const int64_t y = static_cast<int64_t>(row) * w.stride_h - w.pad_h + static_cast<int64_t>(ky) * w.dilation_h;
          for (int kx = 0; kx < w.kernel_w; ++kx) {
            const int64_t x =
                static_cast<int64_t>(column) * w.stride_w - w.pad_w + static_cast<int64_t>(kx) * w.dilation_w;
            const bool inside = y >= 0 && y < w.in_h && x >= 0 && x < w.in_w;
            sum += inside ? mean[(static_cast<size_t>(y) * w.in_w + static_cast<size_t>(x)) * groups + g] : outside;
          }
        }
        out[(row * w.out_w + column) * groups + g] = sum / size;
      }
}

}  // namespace

Step Builder::pack() {
  Pack p{};
  p.rows = size(0);
  p.columns = size(1);
  p.channels = size(2);
  p.groups = size(3, 1, p.channels);
  if (p.channels % p.groups) fail("%d channels in %d groups", p.channels, p.groups);
  const Map map = padded(4, p.rows, p.columns);
  p.top = map.top;
  p.left = map.left;
  p.map_w = map.columns;
  p.threshold = channel(0, p.channels, 0);
  const int words = pixel_words(p.channels, p.groups);
  work(times(p.rows, p.columns, p.channels));
  const int in = value(0, kFloat32, times(p.rows, p.columns, p.channels));
  const int out = value(1, kBits, times(map.rows, map.columns, words), true);
  return [=](Model& m) {
    const float* x = m.at<float>(in);
    uint32_t* y = m.at<uint32_t>(out);
    clear_border(y, words, map, p.rows, p.columns);
    m.team.share(p.rows, [&](size_t begin, size_t end) { m.kernels->pack(p, x, y, begin, end); });
  };
}

Step Builder::pool() {
  Pool p{size(0, 0, 2), size(1),    size(2),    size(3),  size(4),  size(5),  size(6),
         size(7),       size(8, 0), size(9, 0), size(10), size(11), size(12), size(13)};
  if (!touches(p.in_h, p.kernel_h, p.stride_h, p.dilation_h, p.pad_h, p.out_h) ||
      !touches(p.in_w, p.kernel_w, p.stride_w, p.dilation_w, p.pad_w, p.out_w))
    fail("a window without a pixel of the input");
  work(times(p.out_h, p.out_w, p.kernel_h, p.kernel_w, p.channels));
  const int in = value(0, kFloat32, times(p.in_h, p.in_w, p.channels));
  const int out = value(1, kFloat32, times(p.out_h, p.out_w, p.channels), true);
  return [=](Model& m) {
    const float* x = m.at<float>(in);
    float* y = m.at<float>(out);
    m.team.share(p.out_h, [&](size_t begin, size_t end) { m.kernels->pool(p, x, y, begin, end); });
  };
}

Step Builder::bit_pool() {
  BitPool p{};
  p.in_h = size(0);
  p.in_w = size(1);
  p.words = static_cast<int>(ceil_div(size(2), 32));
  p.kernel_h = size(3);
  p.kernel_w = size(4);
  p.stride_h = size(5);
  p.stride_w = size(6);
  p.pad_h = size(7, 0);
  p.pad_w = size(8, 0);
  p.out_h = size(9);
  p.out_w = size(10);
  p.dilation_h = size(19);
  p.dilation_w = size(20);
  if (!touches(p.in_h, p.kernel_h, p.stride_h, p.dilation_h, p.pad_h, p.out_h) ||
      !touches(p.in_w, p.kernel_w, p.stride_w, p.dilation_w, p.pad_w, p.out_w))
    fail("a window without a pixel of the input");
  work(times(p.out_h, p.out_w, p.kernel_h, p.kernel_w, p.words));
  const Map in_map = padded(11, p.in_h, p.in_w), out_map = padded(15, p.out_h, p.out_w);
  p.in_top = in_map.top;
  p.in_left = in_map.left;
  p.in_map_w = in_map.columns;
  p.out_top = out_map.top;
  p.out_left = out_map.left;
  p.out_map_w = out_map.columns;
  const int in = value(0, kBits, times(in_map.rows, in_map.columns, p.words));
  const int out = value(1, kBits, times(out_map.rows, out_map.columns, p.words), true);
  return [=](Model& m) {
    const uint32_t* x = m.at<uint32_t>(in);
    uint32_t* y = m.at<uint32_t>(out);
    clear_border(y, p.words, out_map, p.out_h, p.out_w);
    m.team.share(p.out_h, [&](size_t begin, size_t end) { m.kernels->bit_pool(p, x, y, begin, end); });
  };
}

Step Builder::map() {
  const Window w{size(0), size(1),  size(5),     size(6),     size(7),  size(8),
                 size(9), size(10), size(11, 0), size(12, 0), size(13), size(14)};
  const int channels = size(2), groups = size(3, 1, channels);
  if (channels % groups) fail("%d channels in %d groups", channels, groups);
  const float outside = static_cast<float>(size(15, 0, 1));
  work(times(w.out_h, w.out_w, groups, w.kernel_h, w.kernel_w));
  const int in = value(0, kFloat32, times(w.in_h, w.in_w, channels));
  const int out = value(1, kFloat32, times(w.out_h, w.out_w, groups), true);
  model_.floats.emplace_back(static_cast<size_t>(w.in_h) * w.in_w * groups);
  float* mean = model_.floats.back().data();
  return [=](Model& m) {
    const float* x = m.at<float>(in);
    float* y = m.at<float>(out);
    m.team.share(static_cast<size_t>(w.in_h) * w.in_w, [&](size_t begin, size_t end) {
      m.kernels->magnitude(x, mean, groups, channels / groups, begin, end);
    });
    m.team.share(w.out_h, [&](size_t begin, size_t end) { box(w, groups, outside, mean, y, begin, end); });
  };
}

Step Builder::quantize() {
  const int rows = size(0), columns = size(1), channels = size(2);
  const Map map = padded(3, rows, columns);
  const int zero = size(7, 0, 255);
  const bool planes = size(8, 0, 1) != 0;
  const float factor = op_->f[0];
  const size_t padded_channels = ceil_div(channels, 4) * 4, line = map.columns * padded_channels;
  work(times(map.rows, line));
  const int in = value(0, kFloat32, times(rows, columns, channels));
  const int out = value(1, kUint8, times(map.rows, line), true);
  return [=](Model& m) {
    const float* x = m.at<float>(in);
    uint8_t* y = m.at<uint8_t>(out);
    const size_t plane = planes ? static_cast<size_t>(rows) * columns : 1, step = planes ? 1 : channels;
    m.team.share(map.rows, [&](size_t begin, size_t end) {
      for (size_t row = begin; row < end; ++row) {
        uint8_t* to = y + row * line;
        if (row < static_cast<size_t>(map.top) || row >= static_cast<size_t>(map.top) + rows) {
          std::memset(to, zero, line);
          continue;
        }
        std::memset(to, zero, map.left * padded_channels);
        std::memset(to + (map.left + columns) * padded_channels, zero,
                    (map.columns - map.left - columns) * padded_channels);
        const float* from = x + (row - map.top) * columns * (planes ? 1 : channels);
        m.kernels->quantize(from, plane, to + map.left * padded_channels, channels, columns, step, factor, zero);
      }
    });
  };
}

}  // namespace bibench
