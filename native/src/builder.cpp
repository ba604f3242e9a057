#include "builder.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bibench {

Model::Model(const File& file, const Kernels* kernels, int threads)
    : kernels(kernels), team(threads), values_(file.values), inputs_(file.inputs), outputs_(file.outputs) {
  const Size bytes = ceil_div(std::max<Size>(file.arena, 1), 64) * 64;
  // Zeros from the system, which cost nothing until they are touched, whatever a file claims.
  arena_ = {static_cast<uint8_t*>(std::calloc(bytes + 64, 1)), std::free};
  if (!arena_) refuse("no memory for an arena of %llu bytes", (unsigned long long)bytes);
  aligned_ = arena_.get() + (64 - reinterpret_cast<uintptr_t>(arena_.get()) % 64) % 64;
  memory = bytes;
  for (const Value& v : values_) {
    if (v.place == kInput) inputs_[v.offset] = &v;
    if (v.place == kOutput) outputs_[v.offset] = &v;
  }
}

void build(const File& file, Model& model) { Builder(file, model).build(); }

void Builder::build() {
  for (number_ = 0; number_ < file_.operations.size(); ++number_) {
    op_ = &file_.operations[number_];
    used_.clear();
    steps_ = 0;
    Step made = step();
    model_.add(std::move(made), steps_);
    check_overlap();
  }
  for (const auto& v : model_.words) model_.memory += v.size() * 4;
  for (const auto& v : model_.floats) model_.memory += v.size() * 4;
  for (const auto& v : model_.integers) model_.memory += v.size() * 4;
  for (const auto& v : model_.classes) model_.memory += v.size();
}

Step Builder::step() {
  switch (op_->code) {
    case 1:
      return copy();
    case 2:
      return pack();
    case 3:
      return conv(Product::kBinary);
    case 4:
      return conv(Product::kFloat);
    case 5:
      return conv(Product::kInt8);
    case 6:
      return pool();
    case 7:
      return bit_pool();
    case 8:
      return map();
    case 9:
      return binary();
    case 10:
      return unary();
    case 11:
      return matmul();
    case 12:
      return binary_matmul();
    case 13:
      return softmax();
    case 14:
      return layer_norm();
    case 15:
      return mean();
    case 16:
      return embed();
    case 17:
      return quantize();
    default:
      fail("unknown code %u", op_->code);
  }
}

void Builder::fail(const char* format, ...) const {
  char text[300];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  refuse("operation %llu (code %u): %s", (unsigned long long)number_, op_->code, text);
}

int Builder::size(int i, int least, int most) const {
  const int value = op_->p[i];
  if (value < least || value > most) fail("parameter %d is %d, expected %d to %d", i, value, least, most);
  return value;
}

int Builder::value(int i, uint32_t type, Size count, bool written) const {
  const int index = op_->values[i];
  if (!model_.known(index)) fail("value %d is %d, there are %zu", i, index, file_.values.size());
  const Value& v = file_.values[index];
  if (v.type != type) fail("value %d has type %u, expected %u", i, v.type, type);
  if (v.count < count)
    fail("value %d holds %llu, it needs %llu", i, (unsigned long long)v.count, (unsigned long long)count);
  if (written && v.place == kInput) fail("value %d is an input, which can't be written", i);
  used_.push_back({i, index, written});
  return index;
}

void Builder::check_overlap() const {
  for (const Use& one : used_)
    for (const Use& other : used_) {
      if (!one.written || one.slot == other.slot) continue;
      const Value &a = file_.values[one.index], &b = file_.values[other.index];
      // What has been read when it is written: elementwise, and a convolution's residual.
      const bool residual = op_->code >= 3 && op_->code <= 5 && one.slot == 3 && other.slot == 1;
      const bool in_place = (op_->code == 10 && one.index == other.index) ||
                            (residual && a.place == kArena && a.offset == b.offset && a.count == b.count);
      const bool same = a.place == kArena
                            ? b.place == kArena && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
                            : a.place == b.place && a.offset == b.offset;
      if (same && !in_place) fail("value %d lies over value %d", one.slot, other.slot);
    }
}

const uint8_t* Builder::constant(int i, uint32_t type, Size count) const {
  const int index = op_->constants[i];
  if (index < 0 || static_cast<size_t>(index) >= file_.constants.size())
    fail("constant %d is %d, there are %zu", i, index, file_.constants.size());
  const Constant& c = file_.constants[index];
  if (c.type != type) fail("constant %d has type %u, expected %u", i, c.type, type);
  if (c.count != count)
    fail("constant %d holds %llu, expected %llu", i, (unsigned long long)c.count, (unsigned long long)count);
  return file_.bytes + c.offset;
}

void Builder::work(Size steps) {
  steps_ = steps;
  if (steps > kMostWork) fail("more than %llu steps", (unsigned long long)kMostWork);
}

const float* Builder::channel(int i, Size count, float otherwise) {
  std::vector<float> v(count + kBlock, otherwise);
  if (has_constant(i)) std::memcpy(v.data(), constant(i, kFloat32, count), count * 4);
  model_.floats.push_back(std::move(v));
  return model_.floats.back().data();
}

Builder::Map Builder::padded(int first, int rows, int columns, int top, int left) const {
  const Map m{size(first, 0), size(first + 1, 0), size(first + 2), size(first + 3)};
  if (m.top < top || m.left < left || m.rows < m.top + rows || m.columns < m.left + columns)
    fail("a map of %d x %d with its pixels at %d, %d doesn't hold %d x %d with their padding", m.rows, m.columns, m.top,
         m.left, rows, columns);
  return m;
}

bool Builder::touches(int in, int kernel, int stride, int dilation, int pad, int out) {
  for (int64_t o = 0; o < out; ++o) {
    const int64_t start = o * stride - pad;
    int64_t k = start < 0 ? (-start + dilation - 1) / dilation : 0;
    if (k >= kernel || start + k * dilation >= in) return false;
  }
  return true;
}

void Builder::clear_border(uint32_t* bits, int words, const Map& m, int rows, int columns) {
  const size_t line = static_cast<size_t>(m.columns) * words;
  if (m.columns == columns && m.rows == rows) return;
  std::memset(bits, 0, m.top * line * 4);
  for (int y = m.top; y < m.top + rows; ++y) {
    uint32_t* row = bits + y * line;
    std::memset(row, 0, static_cast<size_t>(m.left) * words * 4);
    std::memset(row + static_cast<size_t>(m.left + columns) * words, 0,
                static_cast<size_t>(m.columns - m.left - columns) * words * 4);
  }
  std::memset(bits + (m.top + rows) * line, 0, static_cast<size_t>(m.rows - m.top - rows) * line * 4);
}

int Builder::pixel_words(int channels, int groups) {
  const int inside = channels / groups;
  const bool dense = groups == 1 || inside == 1 || inside % 32 == 0;
  return dense ? (channels + 31) / 32 : groups * ((inside + 31) / 32);
}

}  // namespace bibench
