#include "core/buffer.h"

#include <sys/mman.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstdint>
#include <memory>

#include "core/error.h"

namespace f1 {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSmallPage = size_t{64} << 10;  // a multiple of every system's page size

}  // namespace

void* allocate_pages(size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw DeviceError(concat("out of memory: ", bytes, " bytes"));
  const bool is_large = bytes >= kHugePage;
  const size_t size = (bytes + kSmallPage - 1) / kSmallPage * kSmallPage;
  const size_t mapped = size + (is_large ? kHugePage : 0);
  void* start = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw DeviceError(concat("out of memory: ", bytes, " bytes"));
  if (!is_large) return start;
  // Only aligned stretches become huge pages: cut off what is before and behind.
  void* data = start;
  size_t left = mapped;
  std::align(kHugePage, size, data, left);
  const size_t before = mapped - left, behind = left - size;
  if (before > 0) ::munmap(start, before);
  if (behind > 0) ::munmap(static_cast<char*>(data) + size, behind);
#ifdef MADV_HUGEPAGE
  ::madvise(data, size, MADV_HUGEPAGE);  // a hint: may be refused
#endif
  return data;
}

void free_pages(void* data, size_t bytes) {
  ::munmap(data, (bytes + kSmallPage - 1) / kSmallPage * kSmallPage);
}

void trim_heap() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace f1
