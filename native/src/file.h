// A packed file's tables, read and checked as far as they can be without knowing the operations.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#if defined(__GNUC__)
#define BIBENCH_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define BIBENCH_PRINTF(text, first)
#endif

namespace bibench {

using Size = uint64_t;

constexpr Size kHeader = 80, kRow = 32, kOperation = 204;
constexpr Size kMostRows = 1u << 20;
constexpr Size kMostArena = Size{1} << 34;
constexpr int kMostSize = 1 << 24;
constexpr Size kMostWork = Size{1} << 40;  // steps of one operation, so that a small file can't run for days

enum Type : uint32_t { kFloat32 = 0, kBits = 1, kInt64 = 2, kUint8 = 3, kInt8 = 4 };
enum Place : uint32_t { kArena = 0, kInput = 1, kOutput = 2 };

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Refuses a file, or what can't be run; the message goes to the caller.
[[noreturn]] BIBENCH_PRINTF(1, 2) void refuse(const char* format, ...);

// Products of sizes that can't overflow: they stop at a number that no buffer has.
inline Size times(Size a) { return a; }
template <class... Rest>
Size times(Size a, Rest... rest) {
  const Size b = times(static_cast<Size>(rest)...);
  constexpr Size most = Size{1} << 62;
  return a != 0 && b > most / a ? most : a * b;
}

inline Size ceil_div(Size a, Size b) { return (a + b - 1) / b; }

struct Value {
  uint32_t place, type;
  Size offset, count, bytes;
};

struct Constant {
  uint32_t type;
  Size offset, count;
};

struct Record {
  uint32_t code;
  int32_t values[6], constants[8], p[32];
  float f[4];
};
static_assert(sizeof(Record) == kOperation, "the format's record, without gaps");

struct File {
  const uint8_t* bytes;
  Size size, arena;
  uint32_t inputs, outputs;
  std::vector<Value> values;
  std::vector<Constant> constants;
  std::vector<Record> operations;
};

// Reads a file's tables; refuses what isn't one, or whose parts lie outside of it. Keeps the pointer.
File parse(const uint8_t* bytes, Size size);

}  // namespace bibench
