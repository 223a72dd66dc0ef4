#include "backend/cuda/shim/fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "backend/cuda/shim/shim.h"
#include "core/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#error "the shim's change of stacks is written for x86-64"
#endif

// Saves what a callee must keep on this stack, notes where, and goes on from another: switch_stack(
// where to note ours, theirs).
extern "C" void f1_switch_stack(void** from, void* to);
asm(R"(
.text
.type f1_switch_stack, @function
f1_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size f1_switch_stack, .-f1_switch_stack
)");

namespace f1::shim {
namespace {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kMaxExchange = 32;  // bytes a lane gives to its warp

enum class State { kReady, kAtBarrier, kAtWarp, kDone };

// A stack with a page below it that nobody may touch.
class Stack {
 public:
  Stack()
      : memory_(static_cast<std::byte*>(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    F1_CHECK(memory_ != MAP_FAILED);
    mprotect(memory_, static_cast<size_t>(sysconf(_SC_PAGESIZE)), PROT_NONE);
  }
  ~Stack() { munmap(memory_, kStackBytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  std::byte* bottom() const { return memory_; }

 private:
  std::byte* memory_;
};

struct Fiber {
  Stack stack;
  void* position = nullptr;    // of its stack, while it does not run
  void* fake_stack = nullptr;  // AddressSanitizer's
  State state = State::kReady;
  int line = 0;  // where it waits
};

struct Warp {
  int num_arrived = 0;
  std::array<std::byte, kLanes * kMaxExchange> given, taken;
};

// The one block that runs on this thread of the host, and what kernels see of it.
struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;  // kept for the next block
  std::vector<Warp> warps;
  std::string kernel, fault;
  dim3 index, size;
  unsigned current = 0;
  void* host_position = nullptr;
  const void* host_stack = nullptr;  // AddressSanitizer's
  size_t host_stack_bytes = 0;
  void* shared = nullptr;
  const std::function<void()>* thread = nullptr;
  Order order = Order::kForward;
  std::mt19937 random;
};

Block& block() {
  static thread_local Block the_block;
  return the_block;
}

void switch_stack(void** from, void* to, [[maybe_unused]] void** fake_stack,
                  [[maybe_unused]] const void* bottom, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
#endif
  f1_switch_stack(from, to);
}

void arrived([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** bottom,
             [[maybe_unused]] size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, bottom, bytes);
#endif
}

// From a fiber back to the host, until the fiber's turn comes again.
void leave(State state, int line) {
  Block& b = block();
  Fiber& fiber = *b.fibers[b.current];
  fiber.state = state;
  fiber.line = line;
  void** const fake_stack = state == State::kDone ? nullptr : &fiber.fake_stack;  // null: freed
  switch_stack(&fiber.position, b.host_position, fake_stack, b.host_stack, b.host_stack_bytes);
  arrived(fiber.fake_stack, &b.host_stack, &b.host_stack_bytes);
}

// The first thing on a fiber's stack.
void enter() {
  Block& b = block();
  arrived(nullptr, &b.host_stack, &b.host_stack_bytes);
  (*b.thread)();
  leave(State::kDone, 0);
}

void prepare(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  // A block that was given up has left its frames there.
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack.bottom() + page, kStackBytes - page);
#endif
  // What f1_switch_stack takes up: six registers and where to return to. On entry to a function the
  // stack is 8 off a multiple of 16.
  auto* top = reinterpret_cast<void**>(fiber.stack.bottom() + kStackBytes) - 2;
  *top = reinterpret_cast<void*>(&enter);
  fiber.position = top - 6;
  std::memset(fiber.position, 0, 6 * sizeof(void*));
  fiber.state = State::kReady;
  fiber.fake_stack = nullptr;
}

void resume(unsigned index) {
  Block& b = block();
  Fiber& fiber = *b.fibers[index];
  b.current = index;
  void* fake_stack = nullptr;
  switch_stack(&b.host_position, fiber.position, &fake_stack, fiber.stack.bottom(), kStackBytes);
  arrived(fake_stack, nullptr, nullptr);
}

std::string where(unsigned thread) {
  const Fiber& fiber = *block().fibers[thread];
  switch (fiber.state) {
    case State::kReady:
      return concat("thread ", thread, " can run");
    case State::kAtBarrier:
      return concat("thread ", thread, " is at __syncthreads() of line ", fiber.line);
    case State::kAtWarp:
      return concat("thread ", thread, " waits for its warp at line ", fiber.line);
    case State::kDone:
      return concat("thread ", thread, " has ended");
  }
  return {};
}

// Nobody can run: all are done, or all at one barrier, or something is wrong.
void open_barrier(unsigned size) {
  Block& b = block();
  const Fiber& first = *b.fibers[0];
  for (unsigned i = 1; i < size; ++i) {
    const Fiber& fiber = *b.fibers[i];
    if (fiber.state == first.state && fiber.line == first.line) continue;
    b.fault = concat("threads do not meet: ", where(0), ", ", where(i));
    return;
  }
  if (first.state == State::kDone) return;
  if (first.state == State::kAtWarp) b.fault = concat("threads do not meet: ", where(0));
  for (unsigned i = 0; i < size; ++i) b.fibers[i]->state = State::kReady;
}

// Lets every fiber that can run, in the chosen order, until none can.
void run_round(unsigned size) {
  Block& b = block();
  std::vector<unsigned> order(size);
  std::iota(order.begin(), order.end(), 0u);
  if (b.order == Order::kReverse) std::ranges::reverse(order);
  for (bool any = true; any && b.fault.empty();) {
    any = false;
    if (b.order == Order::kRandom) std::ranges::shuffle(order, b.random);
    for (const unsigned i : order) {
      if (b.fibers[i]->state != State::kReady) continue;
      resume(i);
      any = true;
      if (!b.fault.empty()) return;
    }
  }
}

}  // namespace

void set_order(Order order, uint32_t seed) {
  block().order = order;
  block().random.seed(seed);
}

dim3 thread_index() { return {block().current, 0, 0}; }
dim3 block_index() { return block().index; }
dim3 block_size() { return block().size; }
void* shared_memory() { return block().shared; }

void meet_block(int line) { leave(State::kAtBarrier, line); }

void meet_warp(unsigned mask, const void* own, size_t size, void* all, int line) {
  Block& b = block();
  const unsigned lane = b.current % kLanes, first = b.current - lane;
  Warp& warp = b.warps[first / kLanes];
  if (mask != 0xffffffffu || size > kMaxExchange)
    b.fault = concat("line ", line, ": not all lanes are named, or they give too much");
  for (unsigned i = first; i < first + kLanes; ++i) {
    const Fiber& other = *b.fibers[i];
    if (other.state == State::kAtWarp && other.line != line)
      b.fault = concat("lanes do not meet: ", where(i), ", thread ", b.current, " at line ", line);
  }
  if (!b.fault.empty()) leave(State::kAtWarp, line);  // for good

  std::memcpy(&warp.given[lane * size], own, size);
  if (++warp.num_arrived < kLanes) {
    leave(State::kAtWarp, line);
  } else {
    // Whoever is slow to take it need not fear the next meeting: that needs him too.
    warp.num_arrived = 0;
    warp.taken = warp.given;
    for (unsigned i = first; i < first + kLanes; ++i) b.fibers[i]->state = State::kReady;
  }
  std::memcpy(all, warp.taken.data(), kLanes * size);
}

void run_block(const std::string& kernel, dim3 index, unsigned size, size_t shared_bytes,
               const std::function<void()>& thread) {
  F1_CHECK(size > 0 && size % kLanes == 0 && size <= 1024, kernel, ": ", size, " threads");
  Block& b = block();
  while (b.fibers.size() < size) b.fibers.push_back(std::make_unique<Fiber>());
  b.warps.assign(size / kLanes, {});
  // Its end is the end of what may be touched.
  const std::unique_ptr<std::byte[]> shared(new std::byte[std::max<size_t>(shared_bytes, 1)]);
  std::memset(shared.get(), 0xff, shared_bytes);
  b.kernel = kernel;
  b.fault.clear();
  b.index = index;
  b.size = {size, 1, 1};
  b.shared = shared.get();
  b.thread = &thread;
  for (unsigned i = 0; i < size; ++i) prepare(*b.fibers[i]);
  do {
    run_round(size);
    if (b.fault.empty()) open_barrier(size);
  } while (b.fault.empty() && b.fibers[0]->state != State::kDone);
  if (!b.fault.empty())
    throw InternalError(concat(kernel, ", block (", index.x, ", ", index.y, "): ", b.fault));
}

}  // namespace f1::shim
