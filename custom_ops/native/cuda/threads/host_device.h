// The device that the host imitates, if the kernels are compiled for the host.
#pragma once

#include <cstdint>

namespace onnx_cbp::cuda {

struct HostDeviceTraits {
  int multiprocessors = 132;
  int64_t shared = 115200;    // bytes of dynamic shared memory that two blocks on a multiprocessor may have each
  bool backwards = false;     // threads run from the last to the first
  int64_t grid = 0x7fffffff;  // the most blocks of a launch
  bool slow_double = false;   // arithmetic in double has a 32nd or 64th of the speed of float
};

// The defaults are those of an H100. The environment variable
// ONNX_CBP_CUDA_HOST_DEVICE="MULTIPROCESSORS,SHARED,BACKWARDS,GRID,SLOW_DOUBLE" can change them; it is read once.
const HostDeviceTraits& HostDevice();

}  // namespace onnx_cbp::cuda
