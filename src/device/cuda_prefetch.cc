#include "device/cuda_prefetch.h"

#include "base/error.h"

namespace onggi {

CudaPrefetchBuffer::CudaPrefetchBuffer(CudaStream& stream, size_t bytes)
    : stream_(stream),
      copies_(stream.attachment<CudaCopyStream>([] { return std::make_shared<CudaCopyStream>(); })),
      memory_(stream.allocate(bytes)) {}

// The source of the last copy may go after this; the memory itself is freed when the device has come to rest.
CudaPrefetchBuffer::~CudaPrefetchBuffer() { cudaStreamSynchronize(copies_.handle()); }

void CudaPrefetchBuffer::fetch(const void* host, size_t bytes) {
  ONGGI_CHECK(bytes <= memory_.bytes());
  stream_.activate();
  free_.record(stream_.handle());
  free_.hold_back(copies_.handle());
  check_cuda(cudaMemcpyAsync(memory_.data(), host, bytes, cudaMemcpyHostToDevice, copies_.handle()),
             "cudaMemcpyAsync", "prefetching from host memory");
  filled_.record(copies_.handle());
}

void CudaPrefetchBuffer::use() {
  stream_.activate();
  filled_.hold_back(stream_.handle());
}

}  // namespace onggi
