// Memory of all packed weights: filled here, or read from a file that an earlier process saved.
//
//   0     PackedHead          4096  the tensors in the order of packing, each at a multiple of 64
//
// Read, not mapped: it takes a tenth of the time of packing, and on huge pages of our own decoding
// is 1 to 3 % faster than from a mapping. Whoever names the file sees to it that it is of the same
// model and the same build.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/thread_pool.h"
#include "core/arena.h"

namespace f1::cpu {

class PackedMemory {
 public:
  // Reads the file at `path`, in parallel. Throws InvalidArgument where it was not saved by this
  // backend or is not whole, to the last bit. No path: no file.
  PackedMemory(const std::string& path, const std::string& backend, ThreadPool& pool);

  // The next tensor as the file has it; null without a file. Throws InvalidArgument at its end.
  const std::byte* find(size_t bytes);
  // Memory for the next tensor, zeroed, to be filled before save().
  std::byte* allocate(size_t bytes);
  // Writes all that was filled. It leaves the pool to others. Throws DeviceError.
  void save(const std::string& path, const std::string& backend) const;

 private:
  Arena arena_;
  std::vector<std::span<const std::byte>> tensors_;  // in the arena, filled here
  std::span<const std::byte> unused_;                // what was read and not found yet
  bool has_file_ = false;
};

}  // namespace f1::cpu
