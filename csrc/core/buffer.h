// An owner of zeroed, 64-byte aligned memory; large ones on huge pages where the system has them.
#pragma once

#include <cstddef>
#include <utility>

namespace f1 {

void* allocate_pages(size_t bytes);  // throws DeviceError
void free_pages(void* data, size_t bytes);
// Gives freed memory that the allocator keeps back to the system, where it can.
void trim_heap();

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size)
      : data_(size ? static_cast<T*>(allocate_pages(size * sizeof(T))) : nullptr), size_(size) {}
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_) free_pages(data_, size_ * sizeof(T));
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t num_bytes() const { return size_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace f1
