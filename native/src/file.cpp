#include "file.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "../include/bibench.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the packed format is little endian, and so must be the machine"
#endif

namespace bibench {

void refuse(const char* format, ...) {
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Refused(text);
}

namespace {

uint32_t crc32(const uint8_t* data, Size size) {
  static const auto table = [] {
    std::vector<uint32_t> t(256 * 8);
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    for (uint32_t i = 0; i < 256; ++i)
      for (int k = 1; k < 8; ++k) t[k * 256 + i] = t[t[(k - 1) * 256 + i] & 255] ^ (t[(k - 1) * 256 + i] >> 8);
    return t;
  }();
  uint32_t crc = ~0u;
  for (; size >= 8; size -= 8, data += 8) {
    uint32_t low, high;
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + 4, 4);
    low ^= crc;
    crc = table[7 * 256 + (low & 255)] ^ table[6 * 256 + (low >> 8 & 255)] ^ table[5 * 256 + (low >> 16 & 255)] ^
          table[4 * 256 + (low >> 24)] ^ table[3 * 256 + (high & 255)] ^ table[2 * 256 + (high >> 8 & 255)] ^
          table[256 + (high >> 16 & 255)] ^ table[high >> 24];
  }
  for (; size; --size, ++data) crc = table[(crc ^ *data) & 255] ^ (crc >> 8);
  return ~crc;
}

template <class T>
T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

Size type_size(uint32_t type) { return type == kInt64 ? 8 : type == kUint8 || type == kInt8 ? 1 : 4; }

}  // namespace

File parse(const uint8_t* bytes, Size size) {
  File file{};
  file.bytes = bytes;
  file.size = size;
  if (size < 8 || std::memcmp(bytes, "BIBPACK\n", 8) != 0) refuse("not a packed file of bibench");
  if (size < kHeader)
    refuse("truncated: %llu bytes, the header has %llu", (unsigned long long)size, (unsigned long long)kHeader);
  const uint32_t version = read<uint32_t>(bytes + 8);
  if (version != BIBENCH_FORMAT)
    refuse("format version %u, this engine reads version %d; export the model again", version, BIBENCH_FORMAT);
  const Size length = read<Size>(bytes + 16);
  if (length != size)
    refuse("%s: %llu bytes, its header says %llu", size < length ? "truncated" : "wrong length",
           (unsigned long long)size, (unsigned long long)length);
  if (crc32(bytes + 16, size - 16) != read<uint32_t>(bytes + 12))
    refuse("damaged: its checksum doesn't match its content");
  file.arena = read<Size>(bytes + 24);
  if (file.arena > kMostArena)
    refuse("an arena of %llu bytes, at most %llu", (unsigned long long)file.arena, (unsigned long long)kMostArena);
  file.inputs = read<uint32_t>(bytes + 32);
  file.outputs = read<uint32_t>(bytes + 36);
  const Size values = read<uint32_t>(bytes + 40), constants = read<uint32_t>(bytes + 44),
             operations = read<uint32_t>(bytes + 48);
  if (std::max({values, constants, operations, Size{file.inputs}, Size{file.outputs}}) > kMostRows)
    refuse("a table of more than %llu rows", (unsigned long long)kMostRows);
  const Size tables = kHeader + kRow * (values + constants) + kOperation * operations;
  if (tables > size)
    refuse("truncated: its tables end at byte %llu of %llu", (unsigned long long)tables, (unsigned long long)size);
  const Size text = read<Size>(bytes + 56), text_length = read<Size>(bytes + 64);
  if (text > size || text_length > size - text) refuse("its metadata are outside the file");

  std::vector<int> found_inputs(file.inputs), found_outputs(file.outputs);
  const uint8_t* at = bytes + kHeader;
  for (Size i = 0; i < values; ++i, at += kRow) {
    Value v{read<uint32_t>(at), read<uint32_t>(at + 4), read<Size>(at + 8), read<Size>(at + 16), 0};
    const unsigned number = static_cast<unsigned>(i);
    if (v.type > kUint8) refuse("value %u: unknown type %u", number, v.type);
    if (v.count == 0 || v.count > kMostArena) refuse("value %u: a count of %llu", number, (unsigned long long)v.count);
    v.bytes = v.count * type_size(v.type);
    if (v.place == kArena) {
      if (v.offset % 64 || v.offset > file.arena || v.bytes > file.arena - v.offset)
        refuse("value %u: %llu bytes at %llu are not in the arena of %llu", number, (unsigned long long)v.bytes,
               (unsigned long long)v.offset, (unsigned long long)file.arena);
    } else if (v.place == kInput || v.place == kOutput) {
      auto& found = v.place == kInput ? found_inputs : found_outputs;
      if (v.offset >= found.size() || found[v.offset]++)
        refuse("value %u: input or output %llu doesn't exist or is there twice", number, (unsigned long long)v.offset);
    } else {
      refuse("value %u: unknown place %u", number, v.place);
    }
    file.values.push_back(v);
  }
  for (int found : found_inputs)
    if (!found) refuse("an input without a value");
  for (int found : found_outputs)
    if (!found) refuse("an output without a value");
  for (Size i = 0; i < constants; ++i, at += kRow) {
    const Constant c{read<uint32_t>(at), read<Size>(at + 8), read<Size>(at + 16)};
    const unsigned number = static_cast<unsigned>(i);
    if (c.type != kFloat32 && c.type != kBits && c.type != kInt8)
      refuse("constant %u: unknown type %u", number, c.type);
    if (c.count == 0 || c.count > times(size, 8))
      refuse("constant %u: a count of %llu", number, (unsigned long long)c.count);
    const Size length_in_file = c.type == kBits ? ceil_div(c.count, 8) : c.count * type_size(c.type);
    if (c.offset % 4 || c.offset > size || length_in_file > size - c.offset)
      refuse("constant %u: %llu bytes at %llu are not in the file", number, (unsigned long long)length_in_file,
             (unsigned long long)c.offset);
    file.constants.push_back(c);
  }
  for (Size i = 0; i < operations; ++i, at += kOperation) file.operations.push_back(read<Record>(at));
  return file;
}

}  // namespace bibench
