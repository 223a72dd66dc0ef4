// A block of threads as fibers of one processor thread: each runs until it must wait for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

struct dim3;

namespace f1::shim {

// In which order fibers run that could. A barrier that is missing makes a difference.
enum class Order { kForward, kReverse, kRandom };
void set_order(Order order, uint32_t seed = 0);

// Runs thread() for each of `size` threads of one block. Throws InternalError naming `kernel` and
// the place where threads do not meet: some of a block at a barrier and others elsewhere or gone,
// lanes of a warp at different places, a mask that leaves lanes out.
void run_block(const std::string& kernel, dim3 block, unsigned size, size_t shared_bytes,
               const std::function<void()>& thread);

// Of the fiber that runs; for kernels.
dim3 thread_index();
dim3 block_index();
dim3 block_size();
void* shared_memory();  // at first full of 0xFF: NaN
void meet_block(int line);
// Brings `size` bytes of every lane of the warp to `all`.
void meet_warp(unsigned mask, const void* own, size_t size, void* all, int line);

}  // namespace f1::shim
