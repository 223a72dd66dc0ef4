// Faults on a device, each named as the tool of compute-sanitizer that has to see it.
#include <string>

__global__ void fill(int* values) { values[threadIdx.x] = 1; }

__global__ void reverse(int* values) {
  __shared__ int shared[64];
  shared[threadIdx.x] = threadIdx.x;
  values[threadIdx.x] = shared[63 - threadIdx.x];  // the other warp's, without a barrier
}

int main(int argc, char** argv) {
  const std::string fault = argc > 1 ? argv[1] : "";
  int* values = nullptr;
  if (cudaMalloc(&values, 64 * sizeof(int)) != cudaSuccess) return 3;
  if (fault == "nothing") fill<<<1, 64>>>(values);
  if (fault == "memcheck") fill<<<1, 1024>>>(values);
  if (fault == "racecheck") reverse<<<1, 64>>>(values);
  return cudaDeviceSynchronize() == cudaSuccess || fault != "nothing" ? 0 : 3;
}
