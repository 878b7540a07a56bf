// A node on the CPU provider.
#pragma once

#include "kernel.h"

namespace onnx_cbp {

class CpuKernel final : public Kernel {
 public:
  using Kernel::Kernel;

 private:
  void Run(const Ort::KernelContext& context, const Shapes& shapes, const OpCall& call) const override;
};

}  // namespace onnx_cbp
