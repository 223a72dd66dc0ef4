#include "backend/cuda/device.h"

namespace f1::cuda {

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    throw DeviceError(concat("cuda: ", call, ": ", cudaGetErrorString(status)));
}

Stream::Stream() { CUDA_CHECK(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking)); }

Stream::~Stream() { (void)cudaStreamDestroy(handle_); }

void Stream::wait() const { CUDA_CHECK(cudaStreamSynchronize(handle_)); }

void Stream::upload(void* to, const void* from, size_t bytes) const {
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, handle_));
  wait();
}

void Stream::copy(void* to, const void* from, size_t bytes) const {
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, handle_));
}

void Stream::download(void* to, const void* from, size_t bytes) const {
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, handle_));
  wait();
}

void Stream::zero(void* to, size_t bytes) const {
  CUDA_CHECK(cudaMemsetAsync(to, 0, bytes, handle_));
}

}  // namespace f1::cuda
