#include "backend/cpu/thread_pool.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace f1::cpu {
namespace {

constexpr int kSpins = 128;   // a few microseconds
constexpr int kYields = 200;  // some tens of microseconds more, giving way to others
constexpr uint64_t kIndexMask = 0xffffffff;

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until done() holds; sleeps only through `sleep`.
template <typename Done, typename Sleep>
void wait_until(Done done, Sleep sleep) {
  for (int i = 0; i < kSpins; ++i) {
    if (done()) return;
    pause_briefly();
  }
  for (int i = 0; i < kYields; ++i) {
    if (done()) return;
    std::this_thread::yield();
  }
  while (!done()) sleep();
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  try {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error& error) {
    const size_t num_started = workers_.size();
    stop();
    throw DeviceError(concat("cannot start thread ", num_started + 2, " of ", num_threads, ": ",
                             error.what()));
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stopping_ = true;
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t size, int64_t chunk, const Task& task) {
  if (size <= 0) return;
  const std::lock_guard lock(caller_);  // also where it runs alone: thread 0 is one thread
  if (workers_.empty() || size <= chunk) return task(0, size, 0);
  const int64_t num_chunks = (size + chunk - 1) / chunk;
  F1_CHECK(num_chunks < static_cast<int64_t>(kIndexMask / 2));
  job_ = {&task, size, chunk};
  unfinished_.store(num_chunks, std::memory_order_relaxed);
  ticket_.store(static_cast<uint64_t>(num_chunks) << 32, std::memory_order_release);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  take_chunks(0);
  const auto done = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
  wait_until(done, [] { std::this_thread::yield(); });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::take_chunks(int thread_index) {
  for (;;) {
    const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
    const int64_t index = static_cast<int64_t>(ticket & kIndexMask);
    if (index >= static_cast<int64_t>(ticket >> 32)) return;
    const int64_t begin = index * job_.chunk;
    try {
      (*job_.task)(begin, std::min(begin + job_.chunk, job_.size), thread_index);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      error_ = std::current_exception();
    }
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void ThreadPool::work(int thread_index) {
  uint32_t seen = 0;
  while (!stopping_) {
    const auto changed = [&] { return epoch_.load() != seen; };
    wait_until(changed, [&] { epoch_.wait(seen); });
    seen = epoch_.load();
    take_chunks(thread_index);
  }
}

}  // namespace f1::cpu
