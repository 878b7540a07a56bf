// Runs recorded calls, as replay_cuda does, with the threads of a block at the same time, under ThreadSanitizer: its
// argument says how threads are dealt out to workers (0 to 2). With the argument --planted, a kernel that lacks a
// barrier.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "threads/block.h"

#define main replay_main
#include "replay_cuda.cc"
#undef main

namespace {

constexpr int kThreads = 64;

// Each thread's number, then their sum from the neighbour's: right with a phase for each of both, a race in one.
int PlantRace(bool planted) {
  std::vector<unsigned char> shared(kThreads * sizeof(int));
  const onnx_cbp::cuda::Block<kThreads> block(0, shared.data());
  int* cells = block.Shared<int>();
  std::vector<int> sums(kThreads);
  const auto write = [&](int thread) { cells[thread] = thread; };
  const auto read = [&](int thread) { sums[static_cast<size_t>(thread)] = cells[(thread + 1) % kThreads]; };
  if (planted) {
    block.ForEachThread([&](int thread) {
      write(thread);
      read(thread);
    });
  } else {
    block.ForEachThread(write);
    block.ForEachThread(read);
  }
  return sums[0] < 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) replaying::Fail("say how threads are dealt out: 0, 1 or 2");
  if (std::strcmp(argv[1], "--planted") == 0) return PlantRace(true);
  if (std::strcmp(argv[1], "--repaired") == 0) return PlantRace(false);
  onnx_cbp::cuda::Crew::Get().dealing = std::atoi(argv[1]);
  return replay_main();
}
