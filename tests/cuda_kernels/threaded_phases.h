// In the place of the loop over a block's threads: they run at the same time, on as many threads of the processor as a
// run of ThreadSanitizer can take. It sees what they read and write without a barrier between.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace onnx_cbp::cuda {

// Threads that wait for a phase, run it together, and wait for the next.
class Crew {
 public:
  static constexpr int kWorkers = 8;

  static Crew& Get() {
    static Crew crew;
    return crew;
  }

  void Run(const std::function<void(int)>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = &work;
    busy_ = kWorkers;
    begun_.store(0, std::memory_order_relaxed);
    ++phase_;
    begin_.notify_all();
    end_.wait(lock, [&] { return busy_ == 0; });
  }

  // How threads are dealt out: in runs, one by one, or by eights. Two that are one worker's cannot race.
  int dealing = 0;

  int WorkerOf(int thread, int threads) const {
    if (dealing == 0) return thread / (threads / kWorkers);
    return dealing == 1 ? thread % kWorkers : thread / 8 % kWorkers;
  }

 private:
  Crew() {
    for (int worker = 0; worker < kWorkers; ++worker) threads_.emplace_back([this, worker] { Serve(worker); });
  }
  ~Crew() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = nullptr;
      ++phase_;
      begin_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
  }

  void Serve(int worker) {
    for (int64_t seen = 0;;) {
      const std::function<void(int)>* work = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        begin_.wait(lock, [&] { return phase_ != seen; });
        seen = phase_;
        work = work_;
      }
      if (work == nullptr) return;
      // None ends before all have begun, or the lock at the end of one would put it before the beginning of another.
      // Relaxed, since this may order nothing that the phase itself does.
      begun_.fetch_add(1, std::memory_order_relaxed);
      while (begun_.load(std::memory_order_relaxed) < kWorkers) std::this_thread::yield();
      (*work)(worker);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--busy_ == 0) end_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable begin_, end_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<int> begun_{0};
  int busy_ = 0;
  int64_t phase_ = 0;
  std::vector<std::thread> threads_;
};

template <int kThreads, typename F>
void RunPhase(F&& f) {
  Crew& crew = Crew::Get();
  crew.Run([&](int worker) {
    for (int thread = 0; thread < kThreads; ++thread) {
      if (crew.WorkerOf(thread, kThreads) == worker) f(thread);
    }
  });
}

}  // namespace onnx_cbp::cuda
