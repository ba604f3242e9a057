// A loaded file: its steps, its constants as the kernels want them, and its arena.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "../include/bibench.h"
#include "file.h"
#include "kernels.h"
#include "team.h"

struct bibench_model {
  virtual ~bibench_model() = default;
};

namespace bibench {

class Model;
using Step = std::function<void(Model&)>;

// Operations of fewer steps (of a word or a number) are not shared: waiting for the others would take longer.
constexpr Size kWorthSharing = 1u << 18;

class Model : public bibench_model {
 public:
  Model(const File& file, const Kernels* kernels, int threads);

  template <class T>
  T* at(int value) {
    const Value& v = values_[value];
    uint8_t* base = v.place == kArena   ? aligned_ + v.offset
                    : v.place == kInput ? const_cast<uint8_t*>(static_cast<const uint8_t*>(bound_inputs_[v.offset]))
                                        : static_cast<uint8_t*>(bound_outputs_[v.offset]);
    if (base && v.place != kArena) base += sample_ * v.bytes;
    return reinterpret_cast<T*>(base);
  }

  void bind(const void* const* inputs, void* const* outputs, size_t sample) {
    bound_inputs_ = inputs;
    bound_outputs_ = outputs;
    sample_ = sample;
  }

  bool known(int value) const { return value >= 0 && static_cast<size_t>(value) < values_.size(); }
  bool reachable(int value) const {
    return known(value) && (values_[value].place == kArena || bound_inputs_ != nullptr);
  }
  const std::vector<const Value*>& inputs() const { return inputs_; }
  const std::vector<const Value*>& outputs() const { return outputs_; }

  void add(Step step, Size work) {
    steps_.push_back(std::move(step));
    shared_.push_back(work >= kWorthSharing);
    shares = shares || work >= kWorthSharing;
  }
  size_t operations() const { return steps_.size(); }
  void run(size_t operation) {
    team.alone(!shared_[operation]);
    steps_[operation](*this);
  }

  const Kernels* kernels;
  Team team;
  bool shares = false;                       // whether any operation is worth sharing
  std::vector<std::vector<uint32_t>> words;  // weights and tables, as the kernels want them
  std::vector<std::vector<float>> floats;
  std::vector<std::vector<int32_t>> integers;
  std::vector<std::vector<uint8_t>> classes;
  size_t memory = 0;
  std::mutex mutex;

 private:
  std::vector<Step> steps_;
  std::vector<bool> shared_;
  std::vector<Value> values_;
  std::vector<const Value*> inputs_, outputs_;
  std::unique_ptr<uint8_t, void (*)(void*)> arena_{nullptr, nullptr};
  uint8_t* aligned_ = nullptr;
  const void* const* bound_inputs_ = nullptr;
  void* const* bound_outputs_ = nullptr;
  size_t sample_ = 0;
};

// Builds the steps of a file's operations; refuses one that would leave its buffers.
void build(const File& file, Model& model);

}  // namespace bibench
