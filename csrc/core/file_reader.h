// A file read piece by piece. Unlike a mapping it survives that the file is cut short meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace f1 {

class FileReader {
 public:
  // Throws InvalidArgument when the file cannot be opened.
  explicit FileReader(const std::string& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  uint64_t size() const;  // throws InvalidArgument
  // Throws InvalidArgument when the file ends before or cannot be read. For any thread.
  void read(uint64_t offset, std::span<std::byte> out) const;

 private:
  std::string path_;
  int fd_;
};

}  // namespace f1
