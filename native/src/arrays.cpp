// Operations on arrays of any shape.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "builder.h"

namespace bibench {
namespace {

template <class T>
void clear(const int64_t (&size)[5], const int64_t (&stride)[5], T* to) {
  for (int64_t a = 0; a < size[0]; ++a)
    for (int64_t b = 0; b < size[1]; ++b)
      for (int64_t d = 0; d < size[2]; ++d)
        for (int64_t e = 0; e < size[3]; ++e) {
          T* line = to + a * stride[0] + b * stride[1] + d * stride[2] + e * stride[3];
          for (int64_t f = 0; f < size[4]; ++f) line[f * stride[4]] = 0;
        }
}

template <class T>
void gather(const int64_t (&size)[5], const int64_t (&in)[5], const int64_t (&out)[5], const T* from, T* to) {
  // Planes to pixels of three channels, as images come, is most of the cost of a fast network's input.
  const bool image = size[4] == 3 && in[3] == 1 && out[3] == 3 && out[4] == 1;
  // Otherwise the innermost loop runs along the input where that is possible.
  int order[5] = {0, 1, 2, 3, 4};
  for (int k = 4; k >= 0 && !image; --k)
    if (in[k] == 1 && size[k] >= 8) {
      std::swap(order[4], order[k]);
      break;
    }
  const int k0 = order[0], k1 = order[1], k2 = order[2], k3 = order[3], k4 = order[4];
  const int64_t n = size[k4], in_step = in[k4], out_step = out[k4];
  for (int64_t a = 0; a < size[k0]; ++a)
    for (int64_t b = 0; b < size[k1]; ++b)
      for (int64_t d = 0; d < size[k2]; ++d) {
        const T* plane = from + a * in[k0] + b * in[k1] + d * in[k2];
        T* target = to + a * out[k0] + b * out[k1] + d * out[k2];
        if (image) {
          const T *red = plane, *green = plane + in[4], *blue = plane + 2 * in[4];
          for (int64_t i = 0; i < size[3]; ++i) {
            target[3 * i] = red[i];
            target[3 * i + 1] = green[i];
            target[3 * i + 2] = blue[i];
          }
          continue;
        }
        for (int64_t e = 0; e < size[k3]; ++e) {
          const T* x = plane + e * in[k3];
          T* y = target + e * out[k3];
          if (in_step == 1 && out_step == 1) {
            std::memcpy(y, x, sizeof(T) * n);
          } else {
            for (int64_t i = 0; i < n; ++i) y[i * out_step] = x[i * in_step];
          }
        }
      }
}

template <class Function>
void each(Model& m, const float* x, float* y, size_t count, Function f) {
  m.team.share((count + 1023) / 1024, [&](size_t begin, size_t end) {
    for (size_t i = begin * 1024; i < std::min(end * 1024, count); ++i) y[i] = f(x[i]);
  });
}

void elementwise(Model& m, int kind, float f0, float f1, const float* x, float* y, size_t n) {
  constexpr float root = 0.79788456080286536f;       // sqrt(2/pi)
  switch (kind) {
    case 0:
      return each(m, x, y, n, [=](float v) {
        v = v < f0 ? f0 : v;
        return v > f1 ? f1 : v;
      });
    case 1:
      return m.team.share((n + 1023) / 1024, [&](size_t begin, size_t end) {
        m.kernels->gelu(x + begin * 1024, y + begin * 1024, std::min(end * 1024, n) - begin * 1024);
      });
    case 2:
      return each(m, x, y, n, [](float v) { return 0.5f * v * (1 + std::tanh(root * (v + 0.044715f * v * v * v))); });
    case 3:
      return each(m, x, y, n, [](float v) { return 1 / (1 + std::exp(-v)); });
    case 4:
      return each(m, x, y, n, [](float v) { return std::tanh(v); });
    case 5:
      return each(m, x, y, n, [](float v) { return v / (1 + std::exp(-v)); });
    case 6:
      return each(m, x, y, n, [](float v) { return std::exp(v); });
    case 7:
      return each(m, x, y, n, [](float v) { return std::sqrt(v); });
    case 8:
      return each(m, x, y, n, [](float v) { return std::fabs(v); });
    case 9:
      return each(m, x, y, n, [=](float v) { return v > 0 ? v : v * f0; });
    case 10:
      return each(m, x, y, n, [](float v) { return v * std::min(std::max(v + 3, 0.0f), 6.0f) / 6; });
    default:
      return each(m, x, y, n, [](float v) { return std::min(std::max(v + 3, 0.0f), 6.0f) / 6; });
  }
}

}  // namespace

Step Builder::copy() {
  struct Copy {
    int64_t size[5], stride[5], low[5], inner[5], out_stride[5], in_offset, out_offset;
    bool padded;
  } c{};
  Size count = 1, last_in = 0, last_out = 0;
  for (int k = 0; k < 5; ++k) {
    c.size[k] = size(k);
    c.stride[k] = size(5 + k, 0);
    c.low[k] = size(10 + k, 0);
    c.inner[k] = size(15 + k);
    c.out_stride[k] = size(20 + k, 0);
    if (c.low[k] + c.inner[k] > c.size[k]) fail("dimension %d: reads past its size", k);
    c.padded = c.padded || c.inner[k] != c.size[k];
    count = times(count, c.size[k]);
    last_in += times(c.inner[k] - 1, c.stride[k]);
    last_out += times(c.size[k] - 1, c.out_stride[k]);
  }
  c.in_offset = size(25, 0, std::numeric_limits<int>::max());
  c.out_offset = size(26, 0, std::numeric_limits<int>::max());
  work(count);
  const int width = op_->p[27];
  if (width != 4 && width != 8) fail("numbers of %d bytes, expected 4 or 8", width);
  const uint32_t type = width == 8 ? kInt64 : kFloat32;
  const int in = value(0, type, last_in + c.in_offset + 1), out = value(1, type, last_out + c.out_offset + 1, true);
  // The output's dimensions as one piece, so that clearing it is one call.
  bool whole = c.padded;
  for (int64_t k = 4, step = 1; k >= 0; step *= c.size[k--])
    whole = whole && (c.out_stride[k] == step || c.size[k] == 1);
  int shared = 0;  // the dimension that threads share
  while (shared < 3 && c.inner[shared] == 1) ++shared;
  auto move = [c, whole, shared, count](Team& team, auto* from, auto* to) {
    from += c.in_offset;
    to += c.out_offset;
    if (whole) {
      std::memset(to, 0, sizeof(*to) * count);
    } else if (c.padded) {
      clear(c.size, c.out_stride, to);
    }
    for (int k = 0; k < 5; ++k) to += c.low[k] * c.out_stride[k];
    team.share(c.inner[shared], [&](size_t begin, size_t end) {
      int64_t inner[5];
      std::copy(c.inner, c.inner + 5, inner);
      inner[shared] = static_cast<int64_t>(end - begin);
      gather(inner, c.stride, c.out_stride, from + begin * c.stride[shared], to + begin * c.out_stride[shared]);
    });
  };
  if (width == 8) return [=](Model& m) { move(m.team, m.at<int64_t>(in), m.at<int64_t>(out)); };
  return [=](Model& m) { move(m.team, m.at<uint32_t>(in), m.at<uint32_t>(out)); };
}

Step Builder::binary() {
  struct {
    int kind;
    int64_t size[5], a[5], b[5], offset_a, offset_b;
  } e{};
  e.kind = size(0, 0, 5);
  Size count = 1, last_a = 0, last_b = 0;
  for (int k = 0; k < 5; ++k) {
    e.size[k] = size(1 + k);
    e.a[k] = size(6 + k, 0);
    e.b[k] = size(11 + k, 0);
    count = times(count, e.size[k]);
    last_a += times(e.size[k] - 1, e.a[k]);
    last_b += times(e.size[k] - 1, e.b[k]);
  }
  e.offset_a = size(16, 0, std::numeric_limits<int>::max());
  e.offset_b = size(17, 0, std::numeric_limits<int>::max());
  work(count);
  const int a = value(0, kFloat32, last_a + e.offset_a + 1), out = value(2, kFloat32, count, true);
  int b = -1;
  const float* fixed = nullptr;
  if (has(1)) {
    b = value(1, kFloat32, last_b + e.offset_b + 1);
  } else {
    const int index = op_->constants[0];
    if (index < 0 || static_cast<size_t>(index) >= file_.constants.size() || file_.constants[index].type != kFloat32 ||
        file_.constants[index].count <= last_b + e.offset_b)
      fail("constant 0 isn't there or too short");
    fixed = channel(0, file_.constants[index].count, 0);
  }
  return [=](Model& m) {
    const float* x = m.at<float>(a) + e.offset_a;
    const float* y = (b < 0 ? fixed : m.at<float>(b)) + e.offset_b;
    float* to = m.at<float>(out);
    for (int64_t i = 0; i < e.size[0]; ++i)
      for (int64_t j = 0; j < e.size[1]; ++j)
        for (int64_t k = 0; k < e.size[2]; ++k)
          for (int64_t l = 0; l < e.size[3]; ++l) {
            const float* p = x + i * e.a[0] + j * e.a[1] + k * e.a[2] + l * e.a[3];
            const float* q = y + i * e.b[0] + j * e.b[1] + k * e.b[2] + l * e.b[3];
            if (e.a[4] == 1 && e.b[4] <= 1) {
              m.kernels->binary(e.kind, p, q, static_cast<int>(e.b[4]), to, e.size[4]);
              to += e.size[4];
            } else {
              for (int64_t n = 0; n < e.size[4]; ++n)
                m.kernels->binary(e.kind, p + n * e.a[4], q + n * e.b[4], 0, to++, 1);
            }
          }
  };
}

Step Builder::unary() {
  const int kind = size(0, 0, 13);
  const size_t count = static_cast<size_t>(size(1, 1, std::numeric_limits<int>::max()));
  work(count);
  const int in = value(0, kFloat32, count), out = value(1, kFloat32, count, true);
  const float f0 = op_->f[0], f1 = op_->f[1];
  if (kind < 12) return [=](Model& m) { elementwise(m, kind, f0, f1, m.at<float>(in), m.at<float>(out), count); };
  const int channels = size(2);
  if (count % channels) fail("%zu numbers of %d channels", count, channels);
  const float* a = channel(0, channels, 0);
  const float* b = kind == 13 ? channel(1, channels, 0) : nullptr;
  return [=](Model& m) {
    const float* x = m.at<float>(in);
    float* y = m.at<float>(out);
    m.team.share(count / channels, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) {
        const float* from = x + i * channels;
        float* to = y + i * channels;
        if (b) {
          for (int c = 0; c < channels; ++c) to[c] = from[c] * a[c] + b[c];
        } else {
          for (int c = 0; c < channels; ++c) to[c] = from[c] >= 0 ? from[c] : a[c] * from[c];
        }
      }
    });
  };
}

Step Builder::matmul() {
  const int batch = size(0), rows = size(1), inner = size(2), columns = size(3);
  const bool transposed = size(4, 0, 1) != 0;
  work(times(batch, rows, inner, columns));
  const int a = value(0, kFloat32, times(batch, rows, inner)), b = value(1, kFloat32, times(batch, inner, columns));
  const int out = value(2, kFloat32, times(batch, rows, columns), true);
  return [=](Model& m) {
    for (size_t i = 0; i < static_cast<size_t>(batch); ++i) {
      const float* x = m.at<float>(a) + i * rows * inner;
      const float* y = m.at<float>(b) + i * inner * columns;
      float* to = m.at<float>(out) + i * rows * columns;
      m.team.share(
          rows, [&](size_t begin, size_t end) { m.kernels->matmul(x, y, to, inner, columns, transposed, begin, end); });
    }
  };
}

Step Builder::binary_matmul() {
  const int batch = size(0), rows = size(1), inner = size(2), columns = size(3);
  const int operand_a = size(4, 0, 1), operand_b = size(5, 0, 1);
  const int words = static_cast<int>(ceil_div(inner, 32));
  const float factor = op_->f[0];
  work(times(batch, rows, words, columns));
  const int a = value(0, kBits, times(batch, rows, words)), b = value(1, kBits, times(batch, columns, words));
  const int out = value(2, kFloat32, times(batch, rows, columns), true);
  return [=](Model& m) {
    const uint32_t* x = m.at<uint32_t>(a);
    const uint32_t* y = m.at<uint32_t>(b);
    float* to = m.at<float>(out);
    m.team.share(static_cast<size_t>(batch) * rows, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) {
        const uint32_t* other = y + i / rows * columns * words;
        for (int j = 0; j < columns; ++j) {
          uint32_t differing, right, either;
          m.kernels->counts(x + i * words, other + static_cast<size_t>(j) * words, words, &differing, &right, &either);
          // Set bits mean -1 or 0. n_a = inner - ones of a is how often a is 1.
          int64_t sum;
          if (operand_a && operand_b) {
            sum = inner - static_cast<int64_t>(either);
          } else if (!operand_a && !operand_b) {
            sum = inner - 2 * static_cast<int64_t>(differing);
          } else if (operand_a) {  // over a = 1: +1 where b's bit is clear, -1 where it is set
            sum = inner - static_cast<int64_t>(either) - static_cast<int64_t>(right);
          } else {  // over b = 1: a's bit set there is differing - right
            sum =
                inner - static_cast<int64_t>(either) - (static_cast<int64_t>(differing) - static_cast<int64_t>(right));
          }
          to[i * columns + j] = static_cast<float>(sum) * factor;
        }
      }
    });
  };
}

template <class Function>
Step Builder::rows_of(bool reduces, Function f) {
  const int rows = size(0), columns = size(1);
  const Size count = times(rows, columns);
  work(count);
  const int in = value(0, kFloat32, count);
  const int out = value(1, kFloat32, reduces ? static_cast<Size>(rows) : count, true);
  return [=](Model& m) {
    const float* x = m.at<float>(in);
    float* y = m.at<float>(out);
    const size_t step = reduces ? 1 : static_cast<size_t>(columns);
    m.team.share(rows, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) f(x + i * columns, y + i * step, columns);
    });
  };
}

Step Builder::softmax() {
  return rows_of(false, [](const float* x, float* y, int n) {
    float most = x[0];
    for (int i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
    float sum = 0;
    for (int i = 0; i < n; ++i) sum += y[i] = std::exp(x[i] - most);
    for (int i = 0; i < n; ++i) y[i] /= sum;
  });
}

Step Builder::layer_norm() {
  const int columns = size(1);
  const float* weight = channel(0, columns, 1);
  const float* bias = channel(1, columns, 0);
  const double epsilon = op_->f[0];
  return rows_of(false, [=](const float* x, float* y, int n) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; ++i) sum += x[i];
    const double mean = sum / n;
    for (int i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double factor = 1 / std::sqrt(squares / n + epsilon);
    for (int i = 0; i < n; ++i) y[i] = static_cast<float>((x[i] - mean) * factor) * weight[i] + bias[i];
  });
}

Step Builder::mean() {
  return rows_of(true, [](const float* x, float* y, int n) {
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += x[i];
    *y = static_cast<float>(sum / n);
  });
}

Step Builder::embed() {
  const int count = size(0), rows = size(1), columns = size(2), offset = size(3, 0), stride = size(4, 0);
  const int in = value(0, kInt64, times(count - 1, stride) + offset + 1);
  const int out = value(1, kFloat32, times(count, columns), true);
  const float* table = channel(0, times(rows, columns), 0);
  return [=](Model& m) {
    const int64_t* indices = m.at<int64_t>(in) + offset;
    float* y = m.at<float>(out);
    for (int i = 0; i < count; ++i) {
      const int64_t index = indices[static_cast<size_t>(i) * stride];
      if (index < 0 || index >= rows) refuse("index %lld, expected 0 to %d", static_cast<long long>(index), rows - 1);
      std::memcpy(y + static_cast<size_t>(i) * columns, table + static_cast<size_t>(index) * columns,
                  sizeof(float) * columns);
    }
  };
}

}  // namespace bibench
