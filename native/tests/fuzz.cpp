// Damaged packed files: loading refuses them or running them stays inside its memory. Built with the address and
// undefined-behaviour sanitizers (tests/native/test_damaged_files.py).
//
//   fuzz SEED FIRST LAST NETWORK...
//
// Iterations FIRST to LAST - 1, each damaging one of the networks in a way that only SEED and the iteration's number
// determine. Prints what became of them; exit status 0 where nothing is wrong, else 1 and the iteration.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "../include/bibench.h"

namespace {

using Bytes = std::vector<uint8_t>;
constexpr uint64_t kMostMemory = 64u << 20;  // what would need more isn't tried: the machine is shared
constexpr unsigned kSeconds = 10;            // what takes longer is only slow

struct Progress {  // shared with the children
  long next, accepted, ran, refused, slow;
};

struct Random {
  std::mt19937_64 engine;
  uint64_t below(uint64_t n) { return n ? engine() % n : 0; }
  bool chance(int percent) { return below(100) < static_cast<uint64_t>(percent); }
};

template <class T>
T read(const Bytes& b, size_t at) {
  T value{};
  if (at + sizeof value <= b.size()) std::memcpy(&value, &b[at], sizeof value);
  return value;
}

template <class T>
void write(Bytes& b, size_t at, T value) {
  if (at + sizeof value <= b.size()) std::memcpy(&b[at], &value, sizeof value);
}

uint32_t crc32(const uint8_t* data, size_t size) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; ++i) {
    crc ^= data[i];
    for (int k = 0; k < 8; ++k) crc = crc & 1 ? 0xedb88320u ^ (crc >> 1) : crc >> 1;
  }
  return ~crc;
}

uint32_t number(Random& random, uint32_t now) {
  static const uint32_t extreme[] = {0,        1,          2,          3,          31,         32,
                                     33,       255,        256,        0xffff,     1u << 24,   (1u << 24) + 1,
                                     1u << 30, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff};
  switch (random.below(5)) {
    case 0:
      return extreme[random.below(sizeof extreme / sizeof *extreme)];
    case 1:
      return now + 1;
    case 2:
      return now - 1;
    case 3:
      return static_cast<uint32_t>(random.below(20));
    default:
      return now ^ (1u << random.below(32));
  }
}

void damage(Bytes& file, Random& random) {
  const size_t values = read<uint32_t>(file, 40), constants = read<uint32_t>(file, 44),
               operations = read<uint32_t>(file, 48);
  const size_t at_operations = 80 + 32 * (values + constants), tables = at_operations + 204 * operations;
  const uint64_t times = 1 + random.below(3);
  for (uint64_t i = 0; i < times; ++i) {
    const uint64_t kind = random.below(20);
    size_t at;
    if (kind < 12 && operations) {  // a number of an operation, likelier one that is used
      do {
        at = at_operations + 204 * random.below(operations) + 4 * random.below(51);
      } while (read<uint32_t>(file, at) == 0 && random.chance(80));
    } else if (kind < 15) {
      at = 80 + 4 * random.below(8 * (values + constants));
    } else if (kind < 16) {
      at = 16 + 4 * random.below(16);
    } else if (kind < 17) {
      at = random.below(file.size());
      file[at] ^= static_cast<uint8_t>(1u << random.below(8));
      continue;
    } else if (kind < 18) {  // two operations change places
      uint8_t row[204];
      const size_t a = at_operations + 204 * random.below(operations),
                   b = at_operations + 204 * random.below(operations);
      if (std::max(a, b) + 204 > file.size()) continue;
      std::memcpy(row, &file[a], 204);
      std::memmove(&file[a], &file[b], 204);
      std::memcpy(&file[b], row, 204);
      continue;
    } else if (kind < 19) {
      file.resize(random.below(2) ? random.below(file.size() + 1) : std::min(file.size(), tables));
      if (file.empty()) return;
      continue;
    } else {  // numbers of any kind among a constant's
      at = random.below(file.size()) / 4 * 4;
      write<uint32_t>(file, at, static_cast<uint32_t>(random.engine()));
      continue;
    }
    write<uint32_t>(file, at, number(random, read<uint32_t>(file, at)));
  }
  if (file.size() < 80) return;
  if (read<uint64_t>(file, 24) > kMostMemory) write<uint64_t>(file, 24, kMostMemory);
  if (!random.chance(3)) write<uint64_t>(file, 16, file.size());
  if (!random.chance(3)) write<uint32_t>(file, 12, crc32(&file[16], file.size() - 16));
}

size_t width(int type) { return type == BIBENCH_INT64 ? 8 : type == BIBENCH_UINT8 ? 1 : 4; }

void after(void* context, int) {
  const auto* model = static_cast<const bibench_model*>(context);
  volatile uint8_t sum = 0;
  for (int i = -1; i < 8; ++i)
    if (const void* value = bibench_value(model, i)) sum = sum + *static_cast<const uint8_t*>(value);
}

void run(bibench_model* model, Random& random, Progress& progress) {
  const int n = bibench_input_number(model), m = bibench_output_number(model);
  const size_t batch = 1 + random.below(2);
  // Each has its own memory of exactly its size, so that a step outside it is seen.
  std::vector<void*> inputs, outputs;
  uint64_t total = 0;
  for (int i = 0; i < n; ++i)
    total += bibench_input_count(model, i) > kMostMemory ? kMostMemory : bibench_input_count(model, i) * 8;
  for (int i = 0; i < m; ++i)
    total += bibench_output_count(model, i) > kMostMemory ? kMostMemory : bibench_output_count(model, i) * 8;
  if (total > kMostMemory) return;
  const bool small = random.chance(50);
  for (int i = 0; i < n; ++i) {
    const int type = bibench_input_type(model, i);
    const size_t bytes = batch * bibench_input_count(model, i) * width(type);
    auto* at = static_cast<uint8_t*>(std::malloc(bytes));
    for (size_t k = 0; k < bytes; ++k) at[k] = static_cast<uint8_t>(random.engine());
    if (type == BIBENCH_INT64 && small)
      for (size_t k = 0; k < bytes / 8; ++k)
        reinterpret_cast<int64_t*>(at)[k] = static_cast<int64_t>(random.below(6)) - 1;
    inputs.push_back(at);
  }
  for (int i = 0; i < m; ++i)
    outputs.push_back(std::malloc(batch * bibench_output_count(model, i) * width(bibench_output_type(model, i))));
  char error[64];
  if (random.chance(80)) {
    bibench_run(model, inputs.data(), outputs.data(), batch, error, sizeof error);
  } else {
    bibench_observe(model, inputs.data(), outputs.data(), after, model, error, sizeof error);
  }
  ++progress.ran;
  for (void* p : inputs) std::free(p);
  for (void* p : outputs) std::free(p);
}

void once(const std::vector<Bytes>& files, uint64_t seed, long iteration, Progress& progress) {
  Random random{std::mt19937_64(seed * 1000003 + static_cast<uint64_t>(iteration))};
  Bytes file = files[random.below(files.size())];
  damage(file, random);
  int sets = 0;
  while (bibench_isa(sets)) ++sets;
  // A copy of exactly its size, freed before it runs: nothing may be kept of it.
  auto* bytes = static_cast<uint8_t*>(std::malloc(file.size()));
  if (!file.empty()) std::memcpy(bytes, file.data(), file.size());
  char error[200] = "";
  bibench_model* model =
      bibench_load(bytes, file.size(), bibench_isa(static_cast<int>(random.below(sets))), random.chance(10) ? 3 : 1,
                   error, random.chance(10) ? random.below(30) : sizeof error);
  std::free(bytes);
  if (!model) {
    ++progress.refused;
    return;
  }
  ++progress.accepted;
  run(model, random, progress);
  bibench_free(model);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: %s SEED FIRST LAST NETWORK...\n", argv[0]);
    return 2;
  }
  const uint64_t seed = std::strtoull(argv[1], nullptr, 10);
  const long last = std::atol(argv[3]);
  std::vector<Bytes> files;
  for (int i = 4; i < argc; ++i) {
    std::ifstream in(argv[i], std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    if (files.back().size() < 80) {
      std::fprintf(stderr, "%s: not a network\n", argv[i]);
      return 2;
    }
  }
  auto* progress = static_cast<Progress*>(
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  progress->next = std::atol(argv[2]);
  // A child goes on until it is done; one that a damaged size keeps busy for too long is replaced.
  while (progress->next < last) {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      while (progress->next < last) {
        alarm(kSeconds);
        once(files, seed, progress->next++, *progress);
      }
      alarm(0);
      std::exit(0);  // looks for leaks
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
      ++progress->slow;
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      std::printf("iteration %ld of seed %llu (or a leak before it): status %d\n", progress->next - 1,
                  static_cast<unsigned long long>(seed), status);
      return 1;
    }
  }
  std::printf("refused %ld, accepted %ld, ran %ld, stopped as too slow %ld\n", progress->refused, progress->accepted,
              progress->ran, progress->slow);
  return 0;
}
