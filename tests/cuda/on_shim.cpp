// Commands of the shim: the fibers' order, and kernels with the faults that it is there to catch.
#include <map>

#include "backend/cuda/device.h"
#include "backend/cuda/warp.h"
#include "core/error.h"
#include "probe.h"

namespace f1 {
namespace {

using cuda::DeviceBuffer;
using cuda::kAllLanes;
using cuda::Stream;

constexpr int kThreads = 64;

void divergent_barrier(float* out) {
  out[threadIdx.x] = 1;
  if (threadIdx.x < 40) __syncthreads();
}

void two_barriers(float*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

void missing_lanes(float* out) {
  if (threadIdx.x % 32 < 31) out[threadIdx.x] = __shfl_sync(kAllLanes, 1.0f, 0);
}

void partial_mask(float* out) { out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0); }

// Each thread takes what its neighbour on the other side of the block gave, without waiting for it.
void no_barrier(float* out) {
  F1_SHARED(float, shared);
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = shared[(threadIdx.x + kThreads / 2) % kThreads];
}

void beyond_shared(float* out) {
  F1_SHARED(float, shared);
  shared[threadIdx.x + 1] = 0;
  out[threadIdx.x] = 0;
}

void beyond_memory(float* out) { out[threadIdx.x + 1] = 0; }

const std::map<std::string, void (*)(float*)> kTraps = {
    {"divergent_barrier", divergent_barrier},
    {"two_barriers", two_barriers},
    {"missing_lanes", missing_lanes},
    {"partial_mask", partial_mask},
    {"no_barrier", no_barrier},
    {"beyond_shared", beyond_shared},
    {"beyond_memory", beyond_memory},
};

void run_trap(const std::string& name) {
  const Stream stream;
  const DeviceBuffer<float> out(stream, kThreads);
  if (name == "host_reads_memory") {
    stream.wait();
    if (out.data()[0] == 0) throw InvalidArgument("the host has read the device's memory");
  }
  F1_LAUNCH(kTraps.at(name), dim3(1), kThreads, kThreads * sizeof(float), stream.handle(),
            out.data());
  const std::vector<float> values = out.download(0, kThreads);
  for (int i = 0; i < kThreads; ++i)
    if (values[i] != static_cast<float>((i + kThreads / 2) % kThreads))
      throw InvalidArgument(concat(name, " has gone through"));
}

}  // namespace

bool run_elsewhere(const std::string& command, std::istream& in) {
  std::string name;
  uint32_t seed = 0;
  if (command == "trap") {
    in >> name;
    run_trap(name);
  } else if (command == "order") {
    in >> name >> seed;
    const std::map<std::string, shim::Order> orders = {{"forward", shim::Order::kForward},
                                                       {"reverse", shim::Order::kReverse},
                                                       {"random", shim::Order::kRandom}};
    shim::set_order(orders.at(name), seed);
  } else {
    return false;
  }
  return true;
}

}  // namespace f1
