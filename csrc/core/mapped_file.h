// A read-only mapping of a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace f1 {

class MappedFile {
 public:
  // Throws InvalidArgument when the file cannot be opened, is empty, or is no regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  // Throws InvalidArgument when the range leaves the file.
  std::span<const std::byte> bytes(uint64_t offset, uint64_t size) const;
  // Throws DeviceError where the file is shorter than it was: to read on what it has lost would end
  // the process. For whoever reads from the mapping long after the file was opened.
  void check_whole() const;
  // Drops the whole pages inside the range from this process's memory; they can be read again.
  void release(uint64_t offset, uint64_t size) const;

 private:
  std::string path_;
  int fd_ = -1;
  std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace f1
