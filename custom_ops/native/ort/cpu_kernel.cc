#include "cpu_kernel.h"

#include <atomic>
#include <exception>

namespace onnx_cbp {
namespace {

// ONNX Runtime's intra-op pool.
class OrtExecutor final : public Executor {
 public:
  explicit OrtExecutor(const Ort::KernelContext& context) : context_(context) {}

  void Run(int64_t tasks, Task run, void* state) const override {
    Work work{run, state};
    context_.ParallelFor([](void* user, size_t task) { static_cast<Work*>(user)->Do(static_cast<int64_t>(task)); },
                         static_cast<size_t>(tasks), 0, &work);
    if (work.error) std::rethrow_exception(work.error);
  }

 private:
  // An exception must not run into the pool's thread: the first one is kept for the caller's.
  struct Work {
    Task run;
    void* state;
    std::atomic<bool> failed{false};
    std::exception_ptr error;

    Work(Task task, void* task_state) : run(task), state(task_state) {}

    void Do(int64_t task) noexcept {
      try {
        run(state, task);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  };

  const Ort::KernelContext& context_;
};

}  // namespace

void CpuKernel::Run(const Ort::KernelContext& context, const Shapes&, const OpCall& call) const {
  const OrtExecutor executor(context);
  RunOnProcessor(call.On(executor));
}

}  // namespace onnx_cbp
