// Makes a session in a global that outlives the library of its ops: its destructor was registered before the library
// was loaded, so it runs after whatever the library destroys at exit. The arguments are the library and a model.
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>

namespace {

const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

void Check(OrtStatus* status) {
  if (status == nullptr) return;
  std::puts(api->GetErrorMessage(status));
  std::exit(3);
}

struct Held {
  OrtEnv* env = nullptr;
  OrtSession* session = nullptr;
  ~Held() {
    if (session == nullptr) return;
    api->ReleaseSession(session);
    api->ReleaseEnv(env);
    std::puts("the session is gone");
  }
};
Held held;

}  // namespace

int main(int, char** arguments) {
  Check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "test", &held.env));
  OrtSessionOptions* options = nullptr;
  Check(api->CreateSessionOptions(&options));
  void* handle = nullptr;
  Check(api->RegisterCustomOpsLibrary(options, arguments[1], &handle));
  Check(api->CreateSession(held.env, arguments[2], options, &held.session));
  api->ReleaseSessionOptions(options);
  std::puts("main ends");
}
