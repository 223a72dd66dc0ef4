#include "core/buffer.h"

#include <sys/mman.h>

#include "core/error.h"

namespace f1 {

void* allocate_pages(size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw DeviceError(concat("out of memory: ", bytes, " bytes"));
#ifdef MADV_HUGEPAGE
  if (bytes >= (size_t{2} << 20)) ::madvise(data, bytes, MADV_HUGEPAGE);  // a hint: may be refused
#endif
  return data;
}

void free_pages(void* data, size_t bytes) { ::munmap(data, bytes); }

}  // namespace f1
