#include "team.h"

#include <stdexcept>
#include <string>
#include <system_error>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace bibench {
namespace {

constexpr int kSpins = 1 << 14;  // half a millisecond or so

inline void pause(int& spins) {
  if (++spins > kSpins / 16) {  // somebody else may need the core
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Team::Team(int threads) {
  workers_.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { loop(i); });
  } catch (const std::system_error& error) {  // those that were started would end the process with their handles
    stop();
    throw std::runtime_error(std::string("no more threads can be started: ") + error.what());
  }
}

Team::~Team() { stop(); }

void Team::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    resting_.store(false);
  }
  awake_condition_.notify_all();
  round_.fetch_add(1);
  for (auto& worker : workers_) worker.join();
}

void Team::wake() {
  if (workers_.empty()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    resting_.store(false);
  }
  awake_condition_.notify_all();
}

void Team::rest() {
  if (!workers_.empty()) resting_.store(true);
}

void Team::run(const Task& task) {
  const int threads = this->threads();
  task_ = &task;
  busy_.store(threads - 1, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  task(0, threads);
  for (int spins = 0; busy_.load(std::memory_order_acquire);) pause(spins);
}

void Team::loop(int thread) {
  unsigned seen = 0;
  for (int spins = 0;;) {
    const unsigned round = round_.load(std::memory_order_acquire);
    if (round != seen) {
      seen = round;
      spins = 0;
      if (busy_.load(std::memory_order_relaxed) == 0) return;  // a round without work: the team is going away
      (*task_)(thread, threads());
      busy_.fetch_sub(1, std::memory_order_release);
      continue;
    }
    if (resting_.load(std::memory_order_relaxed) && spins > kSpins) {  // the next run may follow at once
      std::unique_lock<std::mutex> lock(mutex_);
      awake_condition_.wait(lock, [&] { return stop_ || !resting_.load() || round_.load() != seen; });
      if (stop_) return;
      spins = 0;
      continue;
    }
    pause(spins);
  }
}

}  // namespace bibench
