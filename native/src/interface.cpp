// The C interface of bibench.h.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "../include/bibench.h"
#include "file.h"
#include "kernels.h"
#include "model.h"

namespace bibench {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

namespace {

const std::vector<const Kernels*>& available() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> list;
#if defined(__x86_64__)
    __builtin_cpu_init();
#if !defined(BIBENCH_NO_AVX512)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vpopcntdq") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("popcnt"))
      list.push_back(avx512_kernels());
#endif
#if !defined(BIBENCH_NO_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
        __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))
      list.push_back(avx2_kernels());
#endif
#elif defined(__aarch64__)
    list.push_back(neon_kernels());
#endif
    list.push_back(scalar_kernels());
    return list;
  }();
  return found;
}

const Kernels* find(const char* isa) {
  if (!isa) return available().front();
  for (const Kernels* kernels : available())
    if (std::strcmp(kernels->name, isa) == 0) return kernels;
  return nullptr;
}

void tell(char* error, size_t size, const char* text) {
  if (error && size) std::snprintf(error, size, "%s", text);
}

Model* of(bibench_model* model) { return static_cast<Model*>(model); }
const Model* of(const bibench_model* model) { return static_cast<const Model*>(model); }

// Every entry that can throw goes through here: nothing may pass into C.
template <class Work>
int guarded(char* error, size_t size, const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    tell(error, size, "no memory left");
  } catch (const std::exception& problem) {
    tell(error, size, problem.what());
  }
  return 1;
}

struct Awake {
  explicit Awake(Model& m) : model(m) {
    if (model.shares) model.team.wake();
  }
  ~Awake() {
    model.bind(nullptr, nullptr, 0);
    if (model.shares) model.team.rest();
  }
  Model& model;
};

}  // namespace
}  // namespace bibench

using bibench::available;
using bibench::of;

int bibench_abi(void) { return BIBENCH_ABI; }

const char* bibench_isa(int index) {
  const auto& found = available();
  return index >= 0 && static_cast<size_t>(index) < found.size() ? found[index]->name : nullptr;
}

bibench_model* bibench_load(const void* bytes, size_t size, const char* isa, int threads, char* error,
                            size_t error_size) {
  bibench_model* result = nullptr;
  bibench::guarded(error, error_size, [&] {
    const bibench::Kernels* kernels = bibench::find(isa);
    if (!kernels) bibench::refuse("instruction set '%.40s' is not built in, or this processor lacks it", isa);
    if (threads < 1 || threads > 256) bibench::refuse("%d threads, expected 1 to 256", threads);
    if (!bytes) bibench::refuse("no bytes given");
    const bibench::File file = bibench::parse(static_cast<const uint8_t*>(bytes), size);
    auto model = std::make_unique<bibench::Model>(file, kernels, threads);
    bibench::build(file, *model);
    result = model.release();
  });
  return result;
}

void bibench_free(bibench_model* model) { delete model; }

int bibench_input_number(const bibench_model* model) { return static_cast<int>(of(model)->inputs().size()); }
int bibench_output_number(const bibench_model* model) { return static_cast<int>(of(model)->outputs().size()); }

int bibench_input_type(const bibench_model* model, int index) {
  const bool known = index >= 0 && index < bibench_input_number(model);
  return known ? static_cast<int>(of(model)->inputs()[index]->type) : -1;
}
size_t bibench_input_count(const bibench_model* model, int index) {
  const bool known = index >= 0 && index < bibench_input_number(model);
  return known ? of(model)->inputs()[index]->count : 0;
}
int bibench_output_type(const bibench_model* model, int index) {
  const bool known = index >= 0 && index < bibench_output_number(model);
  return known ? static_cast<int>(of(model)->outputs()[index]->type) : -1;
}
size_t bibench_output_count(const bibench_model* model, int index) {
  const bool known = index >= 0 && index < bibench_output_number(model);
  return known ? of(model)->outputs()[index]->count : 0;
}
int bibench_operation_number(const bibench_model* model) { return static_cast<int>(of(model)->operations()); }
const char* bibench_model_isa(const bibench_model* model) { return of(model)->kernels->name; }
size_t bibench_memory(const bibench_model* model) { return of(model)->memory; }

const void* bibench_value(const bibench_model* model, int value) {
  bibench::Model* m = of(const_cast<bibench_model*>(model));
  return m->reachable(value) ? m->at<uint8_t>(value) : nullptr;
}

int bibench_run(bibench_model* model, const void* const* inputs, void* const* outputs, size_t batch, char* error,
                size_t error_size) {
  return bibench::guarded(error, error_size, [&] {
    bibench::Model& m = *of(model);
    const std::lock_guard<std::mutex> lock(m.mutex);
    const bibench::Awake awake(m);
    for (size_t sample = 0; sample < batch; ++sample) {
      m.bind(inputs, outputs, sample);
      for (size_t i = 0; i < m.operations(); ++i) m.run(i);
    }
  });
}

int bibench_observe(bibench_model* model, const void* const* inputs, void* const* outputs, bibench_observer after,
                    void* context, char* error, size_t error_size) {
  return bibench::guarded(error, error_size, [&] {
    bibench::Model& m = *of(model);
    const std::lock_guard<std::mutex> lock(m.mutex);
    const bibench::Awake awake(m);
    m.bind(inputs, outputs, 0);
    for (size_t i = 0; i < m.operations(); ++i) {
      m.run(i);
      after(context, static_cast<int>(i));
    }
  });
}

int bibench_profile(bibench_model* model, const void* const* inputs, void* const* outputs, uint64_t* nanoseconds,
                    char* error, size_t error_size) {
  return bibench::guarded(error, error_size, [&] {
    bibench::Model& m = *of(model);
    const std::lock_guard<std::mutex> lock(m.mutex);
    const bibench::Awake awake(m);
    m.bind(inputs, outputs, 0);
    using Clock = std::chrono::steady_clock;
    for (size_t i = 0; i < m.operations(); ++i) {
      const auto start = Clock::now();
      m.run(i);
      nanoseconds[i] =
          static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
    }
  });
}

double bibench_peak(const char* isa, enum bibench_unit unit, double seconds) {
  const bibench::Kernels* kernels = bibench::find(isa);
  if (!kernels || !(seconds >= 0)) return 0;
  if (unit != BIBENCH_COPY)
    return kernels->peak(unit == BIBENCH_BINARY  ? bibench::Product::kBinary
                         : unit == BIBENCH_FLOAT ? bibench::Product::kFloat
                                                 : bibench::Product::kInt8,
                         seconds);
  double best = 0;
  bibench::guarded(nullptr, 0, [&] {
    constexpr size_t size = size_t{32} << 20;  // read and written: 64 MiB
    std::vector<char> from(size, 1), to(size);
    const double stop = bibench::now() + seconds;
    do {
      const double start = bibench::now();
      std::memcpy(to.data(), from.data(), size);
      asm volatile("" : : "r"(to.data()) : "memory");
      best = std::max(best, 2.0 * size / (bibench::now() - start));
    } while (bibench::now() < stop);
  });
  return best;
}
