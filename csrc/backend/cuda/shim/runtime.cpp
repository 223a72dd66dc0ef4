// The runtime's calls: streams that put off their work, and memory the host may not touch.
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/shim/shim.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

struct ShimStream {
  std::vector<std::function<void()>> work;
};

namespace {

// The one device of this thread of the host.
struct Device {
  std::map<std::byte*, size_t> memory;
  std::vector<ShimStream*> streams;
  std::string fault;  // of a kernel; from then on every call fails, as on a device
};

Device& device() {
  static thread_local Device the_device;
  return the_device;
}

cudaError_t status() { return device().fault.empty() ? cudaSuccess : cudaErrorLaunchFailure; }

cudaError_t finish(ShimStream& stream) {
  Device& d = device();
  for (const auto& [memory, bytes] : d.memory) ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
  try {
    for (const auto& step : stream.work)
      if (d.fault.empty()) step();
  } catch (const std::exception& error) {
    d.fault = error.what();
  }
  stream.work.clear();
  for (const auto& [memory, bytes] : d.memory) ASAN_POISON_MEMORY_REGION(memory, bytes);
  return status();
}

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"shim", 9, 0};
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*memory, 0xff, bytes);
  device().memory[static_cast<std::byte*>(*memory)] = bytes;
  ASAN_POISON_MEMORY_REGION(*memory, bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  Device& d = device();
  for (ShimStream* stream : d.streams) finish(*stream);
  const auto found = d.memory.find(static_cast<std::byte*>(memory));
  ASAN_UNPOISON_MEMORY_REGION(found->first, found->second);
  d.memory.erase(found);
  std::free(memory);
  return status();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new ShimStream;
  device().streams.push_back(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cudaError_t result = finish(*stream);
  std::erase(device().streams, stream);
  delete stream;
  return result;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return finish(*stream); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  stream->work.push_back([=] { std::memcpy(to, from, bytes); });  // as late as can be
  return status();
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  stream->work.push_back([=] { std::memset(to, value, bytes); });
  return status();
}

cudaError_t cudaGetLastError() { return status(); }

const char* cudaGetErrorString(cudaError_t status) {
  if (status == cudaErrorMemoryAllocation) return "out of memory";
  return status == cudaSuccess ? "no error" : device().fault.c_str();
}

namespace f1::shim {

cudaError_t launch(const char* name, dim3 grid, unsigned block, size_t shared_bytes,
                   cudaStream_t stream, std::function<void()> thread) {
  stream->work.push_back([=, kernel = std::string(name)] {
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x)
        run_block(kernel, {x, y, 0}, block, shared_bytes, thread);
  });
  return status();
}

}  // namespace f1::shim
