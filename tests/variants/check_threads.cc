// Replicas that are threads: all plain C functions from several threads at once, with a communicator between them, for
// ThreadSanitizer. With the argument --planted, a race that it must find.
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "c_api.h"
#include "threaded_executor.h"

namespace {

constexpr int64_t kReplicas = 4;
constexpr int kRounds = 60;

[[noreturn]] void Fail(const char* what) {
  std::printf("%s\n", what);
  std::exit(1);
}

void Check(const char* error) {
  if (error != nullptr) Fail(error);
}

void Expect(bool right, const char* what) {
  if (!right) Fail(what);
}

// Every message by rank; the last to come lets all go on.
class Meeting {
 public:
  // Calls take(parts) once all parts are there, on each replica; returns when all have taken.
  template <typename F>
  void Exchange(int64_t rank, const void* part, F&& take) {
    std::unique_lock<std::mutex> lock(mutex_);
    parts_[rank] = part;
    Wait(&lock);
    lock.unlock();
    take(parts_);
    lock.lock();
    Wait(&lock);
  }

 private:
  void Wait(std::unique_lock<std::mutex>* lock) {
    const int64_t phase = phase_;
    if (++there_ == kReplicas) {
      there_ = 0;
      ++phase_;
      all_.notify_all();
    } else {
      all_.wait(*lock, [&] { return phase_ != phase; });
    }
  }

  std::mutex mutex_;
  std::condition_variable all_;
  const void* parts_[kReplicas] = {};
  int64_t there_ = 0, phase_ = 0;
};

Meeting meeting;
thread_local int64_t own_rank = -1;

int64_t Replicas(void*, const char*, char*, size_t) { return kReplicas; }

int64_t AllGather(void*, int64_t, const onnx_cbp_collective* collective, void* send, void* receive, char*, size_t) {
  const size_t elements = ONNX_CBP_MESSAGE_HEADER + static_cast<size_t>(collective->elements);
  std::memset(send, 0, ONNX_CBP_MESSAGE_HEADER * sizeof(double));
  meeting.Exchange(own_rank, send, [&](const void* const* parts) {
    for (int64_t r = 0; r < kReplicas; ++r) {
      std::memcpy(static_cast<double*>(receive) + static_cast<size_t>(r) * elements, parts[r],
                  elements * sizeof(double));
    }
  });
  return kReplicas;
}

template <typename M>
void Sum(size_t elements, void* message) {
  std::vector<M> sum(elements);
  meeting.Exchange(own_rank, message, [&](const void* const* parts) {
    for (int64_t r = 0; r < kReplicas; ++r) {
      for (size_t i = 0; i < elements; ++i) sum[i] += static_cast<const M*>(parts[r])[i];
    }
  });
  std::memcpy(message, sum.data(), elements * sizeof(M));
}

int64_t AllReduce(void*, int64_t, const onnx_cbp_collective* collective, void* message, char*, size_t) {
  const size_t elements = ONNX_CBP_MESSAGE_HEADER + static_cast<size_t>(collective->elements);
  if (collective->type == 1) {
    std::memset(message, 0, ONNX_CBP_MESSAGE_HEADER * sizeof(float));
    Sum<float>(elements, message);
  } else {
    std::memset(message, 0, ONNX_CBP_MESSAGE_HEADER * sizeof(double));
    Sum<double>(elements, message);
  }
  return kReplicas;
}

// What a replica does in a step: statistics of its own, of all, and sums over all. Sizes change from round to round, so
// that the memory of messages grows and shrinks.
void Step(int64_t rank, int round) {
  const int64_t outer = 2 + rank, channels = 1 + round % 7 * 20, inner = 3;
  const size_t c = static_cast<size_t>(channels);
  const std::vector<float> x(static_cast<size_t>(outer * inner) * c, static_cast<float>(rank));
  std::vector<float> mean(c), var(c), means(c * kReplicas), vars(c * kReplicas), merged_mean(c), merged_var(c);
  std::vector<int64_t> counts(kReplicas);
  int64_t count = 0, total = 0;
  Check(onnx_cbp_channel_stats(1, 1, outer, channels, inner, x.data(), mean.data(), var.data(), &count));
  Check(onnx_cbp_all_gather(1, channels, kReplicas, "world", "layer", mean.data(), var.data(), &count, means.data(),
                            vars.data(), counts.data()));
  Check(onnx_cbp_channel_stats_merge(1, kReplicas, channels, means.data(), vars.data(), counts.data(),
                                     merged_mean.data(), merged_var.data(), &total));
  Expect(total == 3 * (2 + 3 + 4 + 5), "the count of all replicas is wrong");
  const float expected = (0 * 2 + 1 * 3 + 2 * 4 + 3 * 5) / 14.0f;
  Expect(merged_mean[c - 1] > expected - 1e-5f && merged_mean[c - 1] < expected + 1e-5f, "the mean of all is wrong");
  const std::vector<float> ones(c, 1.0f);
  Check(onnx_cbp_all_reduce(1, channels, "world", "mean", "layer", ones.data(), mean.data(), merged_mean.data(),
                            merged_var.data()));
  Expect(merged_mean[0] == 1.0f && merged_var[0] == 1.5f, "the mean of gradients is wrong");
  const std::vector<double> bucket(c * 100, 0.5);
  std::vector<double> reduced(bucket.size());
  Check(onnx_cbp_all_reduce_bucket(11, channels * 100, "world", "sum", "bucket", bucket.data(), reduced.data()));
  Expect(reduced.back() == 0.5 * kReplicas, "the sum of a bucket is wrong");
}

void PlantRace() {
  const onnx_cbp::ThreadedExecutor executor;
  int64_t sum = 0;
  executor.ForEach(1000, [&](int64_t task) { sum += task; });
  std::printf("%d\n", sum == 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--planted") == 0) {
    PlantRace();
    return 0;
  }
  const onnx_cbp_communicator communicator{nullptr, nullptr, Replicas, AllGather, AllReduce};
  onnx_cbp_set_communicator(&communicator);
  std::vector<std::thread> replicas;
  for (int64_t rank = 0; rank < kReplicas; ++rank) {
    replicas.emplace_back([rank] {
      own_rank = rank;
      for (int round = 0; round < kRounds; ++round) Step(rank, round);
    });
  }
  for (std::thread& replica : replicas) replica.join();
  onnx_cbp_set_communicator(nullptr);
  std::puts("replicas agree");
}
