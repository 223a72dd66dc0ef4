#include "backend/cpu/thread_pool.h"

#include <algorithm>
#include <limits>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace f1::cpu {
namespace {

constexpr int kSpins = 256;    // a few microseconds
constexpr int kYields = 1000;  // some hundred more, giving way to others

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

ThreadPool::ThreadPool(int num_threads) : shares_(static_cast<size_t>(num_threads)) {
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  try {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error& error) {
    const size_t num_started = workers_.size();
    stop();
    throw DeviceError(
        concat("cannot start thread ", num_started + 2, " of ", num_threads, ": ", error.what()));
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
  F1_CHECK(num_chunks <= std::numeric_limits<int32_t>::max());
  job_ = {&task, size, chunk};
  unfinished_.store(num_chunks, std::memory_order_relaxed);
  for (int64_t i = 0; i < num_threads(); ++i) {
    const auto begin = static_cast<uint64_t>(num_chunks * i / num_threads());
    const auto end = static_cast<uint64_t>(num_chunks * (i + 1) / num_threads());
    shares_[static_cast<size_t>(i)].left.store(end << 32 | begin, std::memory_order_release);
  }
  epoch_.fetch_add(1);
  epoch_.notify_all();
  run_chunks(0);
  const auto done = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
  wait_until(done, [] { std::this_thread::yield(); });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

int64_t ThreadPool::take(Share& share, bool from_front) {
  uint64_t left = share.left.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t first = left & 0xffffffff, end = left >> 32;
    if (first >= end) return -1;
    const uint64_t rest = from_front ? end << 32 | (first + 1) : (end - 1) << 32 | first;
    if (share.left.compare_exchange_weak(left, rest, std::memory_order_acq_rel))
      return static_cast<int64_t>(from_front ? first : end - 1);
  }
}

void ThreadPool::run_chunks(int thread_index) {
  for (int i = 0; i < num_threads(); ++i) {
    Share& share = shares_[static_cast<size_t>((thread_index + i) % num_threads())];
    for (int64_t index; (index = take(share, i == 0)) >= 0;) {
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
}

void ThreadPool::work(int thread_index) {
  uint32_t seen = 0;
  while (!stopping_) {
    const auto changed = [&] { return epoch_.load() != seen; };
    wait_until(changed, [&] { epoch_.wait(seen); });
    seen = epoch_.load();
    run_chunks(thread_index);
  }
}

}  // namespace f1::cpu
