// Runs a node on ONNX Runtime's threads.
#include "cpu_kernel.h"

#include <atomic>
#include <exception>

namespace onnx_cbp {
namespace {

// An executor on ONNX Runtime's intra-op pool.
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
  // No exception may reach a thread of the pool: the first one is kept, and rethrown on the caller's thread.
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
