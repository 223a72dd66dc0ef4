#include "core/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace f1 {

FileReader::FileReader(const std::string& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) throw InvalidArgument(concat(path, ": cannot open: ", std::strerror(errno)));
}

FileReader::~FileReader() { ::close(fd_); }

uint64_t FileReader::size() const {
  struct stat status{};
  if (::fstat(fd_, &status) == 0) return static_cast<uint64_t>(status.st_size);
  throw InvalidArgument(concat(path_, ": cannot read: ", std::strerror(errno)));
}

void FileReader::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw InvalidArgument(concat(path_, ": cannot read: ", std::strerror(errno)));
    if (count == 0) throw InvalidArgument(concat(path_, ": ends at byte ", offset));
    out = out.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
}

}  // namespace f1
