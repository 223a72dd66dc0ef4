#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace f1 {

MappedFile::MappedFile(const std::string& path)
    // Without waiting: a pipe would have one wait for who writes to it.
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (fd_ < 0) throw InvalidArgument(concat(path, ": cannot open: ", std::strerror(errno)));
  struct stat status{};
  void* data = MAP_FAILED;
  const bool is_file = ::fstat(fd_, &status) == 0 && S_ISREG(status.st_mode);
  if (is_file && status.st_size > 0)
    data = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, fd_, 0);
  if (data == MAP_FAILED) {
    ::close(fd_);
    throw InvalidArgument(
        concat(path, is_file ? ": empty, or cannot be mapped" : ": not a file"));
  }
  data_ = static_cast<std::byte*>(data);
  size_ = static_cast<uint64_t>(status.st_size);
}

MappedFile::~MappedFile() {
  ::munmap(data_, size_);
  ::close(fd_);
}

void MappedFile::check_whole() const {
  struct stat status{};
  if (::fstat(fd_, &status) != 0 || static_cast<uint64_t>(status.st_size) < size_)
    throw DeviceError(concat(path_, ": was cut short while it was in use"));
}

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
