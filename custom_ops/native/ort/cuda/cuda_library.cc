// Finds and loads the library of CUDA kernels.
#include "cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "../ort_api.h"

namespace onnx_cbp {
namespace {

constexpr char kFile[] = "libonnx_cbp_cuda.so";
constexpr char kVariable[] = "ONNX_CBP_CUDA_LIBRARY";
constexpr char kRemedy[] = "reinstall onnx-cbp-cuda, or run the session without CUDAExecutionProvider";

bool Readable(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

// The path of the library. First the environment variable; then the folder of the file with this code (in a Python
// installation onnx_cbp/custom_ops/libonnx_cbp.so); then the package onnx_cbp_cuda next to the package onnx_cbp.
std::string Path() {
  if (const char* named = std::getenv(kVariable)) return named;
  Dl_info own{};
  if (dladdr(reinterpret_cast<const void*>(&CudaLibrary::Present), &own) == 0 || own.dli_fname == nullptr) return kFile;
  const std::string file = own.dli_fname;
  const std::string folder = file.substr(0, file.find_last_of('/') + 1);
  const std::string packaged = folder + "../../onnx_cbp_cuda/" + kFile;
  return !Readable(folder + kFile) && Readable(packaged) ? packaged : folder + kFile;
}

[[noreturn]] void Fail(const std::string& path, const std::string& why) {
  throw Ort::Exception("onnx_cbp: cannot use '" + path + "': " + why + "; " + kRemedy, ORT_FAIL);
}

template <typename F>
void Find(void* library, const std::string& path, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  if (*function == nullptr) Fail(path, "it has no function '" + std::string(name) + "'");
}

}  // namespace

// If the variable names a library that is not there, the session fails: without the error it would run on the
// processor, slowly.
bool CudaLibrary::Present() { return std::getenv(kVariable) != nullptr || Readable(Path()); }

const CudaLibrary& CudaLibrary::Get() {
  // If Load() throws, the variable stays uninitialized, and the next call tries again.
  static const CudaLibrary library = Load();
  return library;
}

CudaLibrary CudaLibrary::Load() {
  const std::string path = Path();
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    Fail(path, why != nullptr ? why : "it cannot be loaded");
  }
  decltype(&onnx_cbp_cuda_interface) interface = nullptr;
  Find(handle, path, "onnx_cbp_cuda_interface", &interface);
  if (interface() != ONNX_CBP_CUDA_INTERFACE) {
    Fail(path, "its interface is number " + std::to_string(interface()) + ", and this library's is " +
                   std::to_string(ONNX_CBP_CUDA_INTERFACE));
  }
  CudaLibrary library{};
#define ONNX_CBP_FIND(function) Find(handle, path, "onnx_cbp_cuda_" #function, &library.function)
  ONNX_CBP_FIND(check);
  ONNX_CBP_FIND(workspace);
  ONNX_CBP_FIND(staging_new);
  ONNX_CBP_FIND(staging_delete);
  ONNX_CBP_FIND(staging_reserve);
  ONNX_CBP_FIND(to_host);
  ONNX_CBP_FIND(to_device);
#define ONNX_CBP_FIND_OP(Name, name, sizes) ONNX_CBP_FIND(name);
  ONNX_CBP_OPS_WITH_CUDA(ONNX_CBP_FIND_OP)
#undef ONNX_CBP_FIND_OP
#undef ONNX_CBP_FIND
  return library;
}

}  // namespace onnx_cbp
