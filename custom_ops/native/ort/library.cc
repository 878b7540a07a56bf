// The entry point of the library: ONNX Runtime calls RegisterCustomOps when a program registers the library with
// session options.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "../kernels/element_types.h"
#include "channel_op.h"

namespace onnx_cbp {
namespace {

uint32_t api_version = ORT_API_VERSION;

// onnx_cbp/registration.py reads and writes this too.
constexpr char kRegistered[] = "onnx_cbp.registered";

// "1.17.3" -> 17.
uint32_t MinorVersion(const char* version) {
  const char* dot = std::strchr(version, '.');
  return dot ? static_cast<uint32_t>(std::atoi(dot + 1)) : 0;
}

// Only one kernel may stand for the CPU provider.
constexpr bool kCudaOpsStandIn = std::string_view(ONNX_CBP_CUDA_PROVIDER) == "CPUExecutionProvider";

void Append(Provider provider, std::vector<std::unique_ptr<ChannelOp>>* ops) {
  for (const OpSpec& spec : OpSpecs()) {
    const std::vector<int> data_types =
        spec.data_input() < 0 ? std::vector<int>{kFloat} : std::vector<int>{kFloat, kDouble, kFloat16, kBFloat16};
    for (int data : data_types) {
      // If no input has the statistics type, ONNX Runtime before 1.19 takes the first overload that it finds.
      const bool double_first = !spec.has_statistics_input() && data == kDouble;
      std::vector<int> statistics_types = {kFloat, kDouble};
      if (double_first) statistics_types = {kDouble, kFloat};
      if (!spec.has_statistics()) statistics_types = {kFloat};
      for (int statistics : statistics_types) {
        ops->push_back(std::make_unique<ChannelOp>(spec, provider, data, statistics));
      }
    }
  }
}

std::vector<std::unique_ptr<ChannelOp>> MakeOps() {
  std::vector<std::unique_ptr<ChannelOp>> ops;
  // The processor's ops first: ONNX Runtime takes the schema of an op from the first one with its name.
  if (!kCudaOpsStandIn) Append(Provider::kCpu, &ops);
  if (kCudaOpsStandIn || CudaLibrary::Present()) Append(Provider::kCuda, &ops);
  if (!kCudaOpsStandIn && CudaLibrary::Present()) Append(Provider::kCudaPlugin, &ops);
  return ops;
}

// Ops and domain are never destroyed. ONNX Runtime keeps pointers to them in every session. A session in a global
// variable that was made before this library was loaded outlives everything that this library destroys at exit.
Ort::CustomOpDomain& Domain() {
  static Ort::CustomOpDomain* const domain = [] {
    const auto* ops = new std::vector<std::unique_ptr<ChannelOp>>(MakeOps());
    auto* made = new Ort::CustomOpDomain("onnx_cbp");
    for (const auto& op : *ops) made->Add(op.get());
    return made;
  }();
  return *domain;
}

}  // namespace

uint32_t ApiVersion() { return api_version; }

}  // namespace onnx_cbp

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  using onnx_cbp::kOldestApi;
  const uint32_t runtime = onnx_cbp::MinorVersion(base->GetVersionString());
  onnx_cbp::api_version = std::min<uint32_t>(ORT_API_VERSION, runtime);
  const OrtApi* api = base->GetApi(onnx_cbp::api_version);
  if (api == nullptr || runtime < kOldestApi) {
    // Every runtime has the first version of the interface, which can report this error.
    return base->GetApi(1)->CreateStatus(ORT_NOT_IMPLEMENTED,
                                         "onnx_cbp needs ONNX Runtime 1.17 or newer: upgrade onnxruntime");
  }
  Ort::InitApi(api);
  return onnx_cbp::StatusOf([&] {
    Ort::UnownedSessionOptions session(options);
    // ONNX Runtime refuses a domain that is registered twice, but only when the session is made. So the options
    // remember it.
    if (session.HasConfigEntry(onnx_cbp::kRegistered)) return;
    session.Add(onnx_cbp::Domain());
    session.AddConfigEntry(onnx_cbp::kRegistered, "native");
  });
}
