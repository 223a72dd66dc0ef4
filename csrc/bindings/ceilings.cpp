// What the machine can do at most, for `f1 bench` to hold our speed against: how fast memory is
// read and how fast 8-bit integers are multiplied, by plain loops that do nothing else.
#include <pybind11/stl.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include "bindings/bindings.h"
#include "core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace f1 {
namespace {

namespace py = pybind11;

// Puts the calling thread on the index-th of the processors it may use: on a busy machine the
// system takes a while to spread young threads, and two of them on one processor are no ceiling.
void pin_thread(int index) {
#if defined(__linux__)
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0) return;
  index %= CPU_COUNT(&allowed);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &allowed) && index-- == 0) CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
#else
  static_cast<void>(index);
#endif
}

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// Runs `task(thread index)`, which returns how much it did, on so many threads at once; the sum of
// their rates. A second is one of the thread's processor: to be put aside for a while is no part of
// what the machine can do.
double rate_of_threads(int num_threads, const std::function<double(int)>& task) {
  std::atomic<int> num_ready{0};
  std::vector<double> rates(static_cast<size_t>(num_threads));
  std::vector<std::thread> threads;
  for (int i = 0; i < num_threads; ++i) {
    threads.emplace_back([&, i] {
      if (num_threads > 1) pin_thread(i);
      num_ready.fetch_add(1);
      while (num_ready.load() < num_threads) std::this_thread::yield();
      const double start = thread_seconds();
      const double done = task(i);
      rates[static_cast<size_t>(i)] = done / (thread_seconds() - start);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

// --- reading memory ----------------------------------------------------------------------------

constexpr size_t kHugePage = size_t{2} << 20;

// Memory in huge pages where the system gives them.
class HugeBuffer {
 public:
  explicit HugeBuffer(size_t num_bytes) : num_bytes_(num_bytes + kHugePage) {
    mapped_ = mmap(nullptr, num_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped_ == MAP_FAILED) throw DeviceError(concat("no memory for ", num_bytes_, " bytes"));
#if defined(MADV_HUGEPAGE)
    madvise(mapped_, num_bytes_, MADV_HUGEPAGE);  // advice: of no effect where there are none
#endif
  }
  ~HugeBuffer() { munmap(mapped_, num_bytes_); }
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;

  uint64_t* data() const {
    const auto address = reinterpret_cast<uintptr_t>(mapped_);
    return reinterpret_cast<uint64_t*>((address + kHugePage - 1) / kHugePage * kHugePage);
  }

 private:
  size_t num_bytes_;
  void* mapped_;
};

// Four streams at a time, each a quarter of [words, words + size): more than one keeps the
// prefetchers busier, as the rows of several panels do.
inline __attribute__((always_inline)) uint64_t sum_words(const uint64_t* words, size_t size) {
  using Vector = uint64_t __attribute__((vector_size(64)));
  const size_t quarter = size / 32 * 8;
  Vector sums[4] = {};
  for (size_t i = 0; i < quarter; i += 8)
    for (size_t stream = 0; stream < 4; ++stream)
      sums[stream] += *reinterpret_cast<const Vector*>(words + stream * quarter + i);
  const Vector all = sums[0] + sums[1] + sums[2] + sums[3];
  uint64_t sum = 0;
  for (int lane = 0; lane < 8; ++lane) sum += all[lane];
  return sum;
}

using SumWords = uint64_t (*)(const uint64_t*, size_t);

uint64_t sum_words_plain(const uint64_t* words, size_t size) { return sum_words(words, size); }

#if defined(__x86_64__)
__attribute__((target("avx512f"))) uint64_t sum_words_avx512(const uint64_t* words, size_t size) {
  return sum_words(words, size);
}
__attribute__((target("avx2"))) uint64_t sum_words_avx2(const uint64_t* words, size_t size) {
  return sum_words(words, size);
}

SumWords best_sum_words() {
  if (__builtin_cpu_supports("avx512f")) return sum_words_avx512;
  return __builtin_cpu_supports("avx2") ? sum_words_avx2 : sum_words_plain;
}
#else
SumWords best_sum_words() { return sum_words_plain; }
#endif

// Bytes a second in each pass over the buffer, every thread reading a part of its own.
std::vector<double> read_bandwidth(int num_threads, int64_t num_bytes, int num_passes) {
  if (num_threads < 1 || num_passes < 1) throw InvalidArgument("threads and passes start at 1");
  const auto part = static_cast<size_t>(num_bytes) / sizeof(uint64_t) / num_threads / 32 * 32;
  if (num_bytes < 1 || part == 0) throw InvalidArgument("num_bytes: too few for the threads");
  const SumWords sum = best_sum_words();
  const HugeBuffer buffer(static_cast<size_t>(num_bytes));
  const auto words = [&](int thread) { return buffer.data() + size_t(thread) * part; };
  std::atomic<uint64_t> total{0};  // 0 at the end; the compiler does not know
  const double part_bytes = double(part * sizeof(uint64_t));
  const auto fill = [&](int i) {
    std::fill_n(words(i), part, uint64_t{0});
    return part_bytes;
  };
  const auto read = [&](int i) {
    total += sum(words(i), part);
    return part_bytes;
  };
  rate_of_threads(num_threads, fill);
  std::vector<double> rates;
  for (int pass = 0; pass < num_passes; ++pass) rates.push_back(rate_of_threads(num_threads, read));
  F1_CHECK(total == 0, total.load());
  return rates;
}

// --- multiplying 8-bit integers ----------------------------------------------------------------

constexpr int kAccumulators = 16;  // more than latency times throughput of any core so far

#if defined(__x86_64__)
// Each returns the multiply-adds it did in `num_rounds` rounds.
__attribute__((target("avx512f,avx512vnni"))) double dot_avx512(int64_t num_rounds) {
  __m512i sums[kAccumulators] = {};
  __m512i left = _mm512_set1_epi8(1), right = _mm512_set1_epi8(2);
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));  // as far as the compiler knows, unequal
  for (int64_t round = 0; round < num_rounds; ++round) {
    asm volatile("" : "+v"(left), "+v"(right));  // values the compiler may not reason about
#pragma GCC unroll 16
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, left, right);
  }
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
  return double(num_rounds) * kAccumulators * 64;
}

__attribute__((target("avx2,avxvnni"))) double dot_avx2(int64_t num_rounds) {
  __m256i sums[kAccumulators - 2] = {};  // two registers hold the factors
  __m256i left = _mm256_set1_epi8(1), right = _mm256_set1_epi8(2);
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
  for (int64_t round = 0; round < num_rounds; ++round) {
    asm volatile("" : "+x"(left), "+x"(right));
#pragma GCC unroll 14
    for (__m256i& sum : sums) sum = _mm256_dpbusd_avx_epi32(sum, left, right);
  }
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
  return double(num_rounds) * (kAccumulators - 2) * 32;
}
#endif

using Dot = double (*)(int64_t);

Dot best_dot() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return dot_avx512;
  if (__builtin_cpu_supports("avxvnni")) return dot_avx2;
#endif
  return nullptr;
}

// Multiply-adds a second of all threads together; none where there is no such instruction.
std::optional<double> dot_rate(int num_threads, int64_t num_rounds) {
  if (num_threads < 1 || num_rounds < 1) throw InvalidArgument("threads and rounds start at 1");
  const Dot dot = best_dot();
  if (dot == nullptr) return std::nullopt;
  return rate_of_threads(num_threads, [&](int) { return dot(num_rounds); });
}

}  // namespace

void bind_ceilings(py::module_& module) {
  module.def("read_bandwidth", &read_bandwidth, py::arg("num_threads"),
             py::arg("num_bytes") = int64_t{1} << 29, py::arg("num_passes") = 8,
             py::call_guard<py::gil_scoped_release>(),
             "Bytes a second at which num_threads read num_bytes of memory, once for each pass.");
  module.def("dot_rate", &dot_rate, py::arg("num_threads"), py::arg("num_rounds") = 10'000'000,
             py::call_guard<py::gil_scoped_release>(),
             "Multiply-adds a second of the processor's widest dot product of 8-bit integers "
             "(vpdpbusd), on num_threads; None where it has none.");
}

}  // namespace f1
