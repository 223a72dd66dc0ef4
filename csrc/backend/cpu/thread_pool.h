// A pool that splits a range over the calling thread and num_threads - 1 workers.
//
// Each thread starts with a run of chunks of its own, so that it reads memory straight on; whoever
// is done takes chunks from the end of another's. A thread that the system has put aside holds up
// one chunk, not half of the stage; and the caller never waits for a worker that has taken none.
// Idle workers spin for some microseconds (stages follow each other that fast), then yield, then
// sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace f1::cpu {

class ThreadPool {
 public:
  // (begin, end, thread index in 0..num_threads-1).
  using Task = std::function<void(int64_t, int64_t, int)>;

  explicit ThreadPool(int num_threads);  // throws DeviceError when the system has no more threads
  ~ThreadPool();

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }
  // Runs `task` over [0, size) in chunks of `chunk`; returns when all are done. Then throws what a
  // chunk threw, if one did. Calls from several threads take turns.
  void run(int64_t size, int64_t chunk, const Task& task);

 private:
  struct Job {
    const Task* task = nullptr;
    int64_t size = 0;
    int64_t chunk = 0;
  };
  // The chunks that a thread has not begun: first in the low half, end in the high half. Whoever
  // takes one of them, however late it comes, may rely on job_: the job cannot end before.
  struct alignas(64) Share {
    std::atomic<uint64_t> left{0};
  };
  void stop();
  void work(int thread_index);
  void run_chunks(int thread_index);
  // A chunk from the front of one's own share, or from the back of another's; -1 when it is empty.
  static int64_t take(Share& share, bool from_front);

  std::mutex caller_;
  Job job_;
  std::vector<Share> shares_;  // one a thread
  alignas(64) std::atomic<int64_t> unfinished_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<bool> stopping_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;  // the last that a chunk of this job threw
  std::vector<std::thread> workers_;
};

}  // namespace f1::cpu
