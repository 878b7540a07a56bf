// In the place of the executor of the plain C functions: tasks on threads that run at the same time, for
// ThreadSanitizer. In an order of its own, since kernels may not depend on one.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/dividing/executor.h"

namespace onnx_cbp {

class ThreadedExecutor final : public Executor {
 public:
  static constexpr int64_t kThreads = 4;

  void Run(int64_t tasks, Task run, void* state) const override {
    std::vector<std::thread> threads;
    for (int64_t thread = 0; thread < kThreads && thread < tasks; ++thread) {
      // Neighbouring tasks, which write neighbouring memory, are those of different threads.
      threads.emplace_back([=] {
        for (int64_t task = thread; task < tasks; task += kThreads) run(state, task);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
};

}  // namespace onnx_cbp
