// A stream of work and memory on the device.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "backend/cuda/runtime.h"
#include "core/error.h"

#define CUDA_CHECK(call) ::f1::cuda::check((call), #call)

namespace f1::cuda {

// Throws DeviceError.
void check(cudaError_t status, const char* call);

// Everything runs on one stream, in order. The legacy default stream is not used at all: it would
// not be in order with this one.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t handle() const { return handle_; }
  void wait() const;
  // Both wait: CUDA promises nothing else of copies from and to pageable memory.
  void upload(void* to, const void* from, size_t bytes) const;
  void download(void* to, const void* from, size_t bytes) const;
  void copy(void* to, const void* from, size_t bytes) const;  // on the device
  void zero(void* to, size_t bytes) const;

 private:
  cudaStream_t handle_ = nullptr;
};

// Owned, zeroed device memory. The host never follows data().
template <typename T>
class DeviceBuffer {
 public:
  // Throws DeviceError naming the size.
  DeviceBuffer(const Stream& stream, size_t size) : stream_(&stream), size_(size) {
    if (size == 0) return;
    void* memory = nullptr;
    if (cudaMalloc(&memory, num_bytes()) != cudaSuccess) {
      (void)cudaGetLastError();  // not to be seen by the next launch
      throw DeviceError(concat("cuda: no room for ", num_bytes(), " bytes on the device"));
    }
    data_ = static_cast<T*>(memory);
    stream.zero(data_, num_bytes());
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_) (void)cudaFree(data_);  // waits for the device
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t num_bytes() const { return size_ * sizeof(T); }

  void upload(std::span<const T> values) const {
    F1_CHECK(values.size() <= size_);
    if (!values.empty()) stream_->upload(data_, values.data(), values.size_bytes());
  }
  // Grows where `values` need it.
  void upload_growing(std::span<const T> values) {
    if (values.size() > size_) {
      stream_->wait();  // what reads the old memory must be done
      *this = DeviceBuffer(*stream_, std::max(values.size(), 2 * size_));
    }
    upload(values);
  }
  std::vector<T> download(size_t begin, size_t count) const {
    F1_CHECK(begin <= size_ && count <= size_ - begin);
    std::vector<T> values(count);
    if (count > 0) stream_->download(values.data(), data_ + begin, count * sizeof(T));
    return values;
  }

 private:
  const Stream* stream_ = nullptr;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace f1::cuda
