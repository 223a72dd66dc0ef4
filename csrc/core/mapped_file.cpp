#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace f1 {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // Without waiting: a pipe would have one wait for who writes to it.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw InvalidArgument(concat(path, ": cannot open: ", std::strerror(errno)));
  struct stat status{};
  void* data = MAP_FAILED;
  const bool is_file = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (is_file && status.st_size > 0)
    data = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  if (!is_file) throw InvalidArgument(concat(path, ": not a file"));
  if (data == MAP_FAILED) throw InvalidArgument(concat(path, ": empty, or cannot be mapped"));
  data_ = static_cast<std::byte*>(data);
  size_ = static_cast<uint64_t>(status.st_size);
}

MappedFile::~MappedFile() { ::munmap(data_, size_); }

std::span<const std::byte> MappedFile::bytes(uint64_t offset, uint64_t size) const {
  if (offset > size_ || size > size_ - offset)
    throw InvalidArgument(concat(path_, ": bytes ", offset, " to ", offset, "+", size,
                                 " lie outside the file of ", size_, " bytes"));
  return {data_ + offset, static_cast<size_t>(size)};
}

void MappedFile::release(uint64_t offset, uint64_t size) const {
  const std::span<const std::byte> range = bytes(offset, size);
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = (offset + page - 1) / page * page;
  const uint64_t end = (offset + range.size()) / page * page;
  if (begin < end) ::madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

}  // namespace f1
