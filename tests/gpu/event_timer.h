// Times work on a card's stream by its own events.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "device/cuda_stream.h"

namespace onggi {

class EventTimer {
 public:
  explicit EventTimer(CudaStream& stream) : stream_(stream) {
    check_cuda(cudaEventCreate(&begin_), "cudaEventCreate", "measuring");
    check_cuda(cudaEventCreate(&end_), "cudaEventCreate", "measuring");
  }
  EventTimer(const EventTimer&) = delete;
  EventTimer& operator=(const EventTimer&) = delete;
  ~EventTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }

  // Microseconds of work(): the median of `runs`, after warming up `warm_ups` times.
  double median(int warm_ups, int runs, const std::function<void()>& work) {
    for (int i = 0; i < warm_ups; ++i) work();
    std::vector<float> times(static_cast<size_t>(runs));
    for (float& milliseconds : times) {
      check_cuda(cudaEventRecord(begin_, stream_.handle()), "cudaEventRecord", "measuring");
      work();
      check_cuda(cudaEventRecord(end_, stream_.handle()), "cudaEventRecord", "measuring");
      check_cuda(cudaEventSynchronize(end_), "cudaEventSynchronize", "measuring");
      check_cuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime", "measuring");
    }
    std::sort(times.begin(), times.end());
    return 1000.0 * times[times.size() / 2];
  }

 private:
  CudaStream& stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace onggi
