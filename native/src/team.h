// Threads that share the parts of one operation after the other.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bibench {

class Team {
 public:
  explicit Team(int threads);
  ~Team();
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Keeps the workers awake between operations: they spin, since an operation takes microseconds.
  void wake();
  void rest();

  // Whether what follows is done by the caller alone.
  void alone(bool alone) { alone_ = alone; }

  // Calls work(begin, end) on every thread's share of [0, parts), and waits for all.
  template <class Work>
  void share(size_t parts, const Work& work) {
    if (alone_ || workers_.empty() || parts < 2) return work(0, parts);
    run([&](int thread, int threads) {
      const size_t begin = parts * thread / threads, end = parts * (thread + 1) / threads;
      if (begin < end) work(begin, end);
    });
  }

 private:
  using Task = std::function<void(int, int)>;
  void run(const Task& task);
  void loop(int thread);
  void stop();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable awake_condition_;
  bool stop_ = false, alone_ = false;
  const Task* task_ = nullptr;
  std::atomic<unsigned> round_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> resting_{true};
};

}  // namespace bibench
