// Runs the tasks of a kernel. A kernel knows neither threads nor ONNX Runtime.
#pragma once

#include <cstdint>
#include <type_traits>

namespace onnx_cbp {

class Executor {
 public:
  // Calls run(state, task) once for every task in [0, tasks), in any order. Returns when all have ended.
  using Task = void (*)(void* state, int64_t task);
  virtual void Run(int64_t tasks, Task run, void* state) const = 0;

  // The same for a callable.
  template <typename F>
  void ForEach(int64_t tasks, F&& body) const {
    if (tasks == 1) {
      body(int64_t{0});
    } else if (tasks > 1) {
      using Body = std::remove_reference_t<F>;
      Run(tasks, [](void* state, int64_t task) { (*static_cast<Body*>(state))(task); }, &body);
    }
  }

 protected:
  ~Executor() = default;
};

// Runs the tasks one after the other, on the caller's thread.
class SerialExecutor final : public Executor {
 public:
  void Run(int64_t tasks, Task run, void* state) const override {
    for (int64_t task = 0; task < tasks; ++task) run(state, task);
  }
};

}  // namespace onnx_cbp
