#include "backend/cpu/packed_memory.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>

#include "core/checksum.h"
#include "core/error.h"
#include "core/file_reader.h"

namespace f1::cpu {
namespace {

constexpr size_t kDataOffset = 4096;
constexpr size_t kAlignment = 64;
constexpr size_t kPartBytes = size_t{1} << 20;  // read, and checked while it is in the cache

struct PackedHead {
  char magic[8] = {'F', '1', ' ', 'p', 'a', 'c', 'k', '1'};
  char backend[48] = {};
  uint64_t data_bytes = 0;
  uint64_t data_checksum = 0;
  uint64_t own_checksum = 0;  // of what stands before
};

PackedHead make_head(const std::string& backend, uint64_t data_bytes, uint64_t data_checksum) {
  PackedHead head{.data_bytes = data_bytes, .data_checksum = data_checksum};
  backend.copy(head.backend, sizeof(head.backend) - 1);
  const auto bytes = std::as_bytes(std::span(&head, 1));
  head.own_checksum = checksum(bytes.first(offsetof(PackedHead, own_checksum)));
  return head;
}

// Checksums of the data's parts, and their checksum.
struct Parts {
  explicit Parts(size_t size) : size(size), checksums((size + kPartBytes - 1) / kPartBytes) {}

  size_t begin(int64_t index) const { return static_cast<size_t>(index) * kPartBytes; }
  void read(const FileReader& file, int64_t index, std::byte* out) {
    const std::span part(out, std::min(kPartBytes, size - begin(index)));
    file.read(kDataOffset + begin(index), part);
    checksums[static_cast<size_t>(index)] = checksum(part);
  }
  uint64_t whole() const { return checksum(std::as_bytes(std::span(checksums))); }

  size_t size;
  std::vector<uint64_t> checksums;
};

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

PackedMemory::PackedMemory(const std::string& path, const std::string& backend, ThreadPool& pool)
    : has_file_(!path.empty()) {
  if (!has_file_) return;
  const FileReader file(path);
  PackedHead found;
  file.read(0, std::as_writable_bytes(std::span(&found, 1)));
  const PackedHead expected = make_head(backend, found.data_bytes, found.data_checksum);
  const bool is_ours = std::memcmp(&found, &expected, sizeof(found)) == 0;
  if (!is_ours || file.size() < kDataOffset || file.size() - kDataOffset != found.data_bytes)
    throw InvalidArgument(concat(path, ": not the packed weights of ", backend, ", or cut"));
  std::byte* data = arena_.allocate(found.data_bytes);
  Parts parts(found.data_bytes);
  pool.run(std::ssize(parts.checksums), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) parts.read(file, i, data + parts.begin(i));
  });
  if (parts.whole() != found.data_checksum)
    throw InvalidArgument(concat(path, ": does not match its checksum"));
  unused_ = {data, found.data_bytes};
}

const std::byte* PackedMemory::find(size_t bytes) {
  if (!has_file_) return nullptr;
  if (aligned(bytes) > unused_.size())
    throw InvalidArgument("the packed weights in the file are fewer than the model's");
  const std::byte* data = unused_.data();
  unused_ = unused_.subspan(aligned(bytes));
  return data;
}

std::byte* PackedMemory::allocate(size_t bytes) {
  std::byte* data = arena_.allocate(bytes);
  tensors_.emplace_back(data, bytes);
  return data;
}

void PackedMemory::save(const std::string& path, const std::string& backend) const {
  constexpr std::array<char, kDataOffset> kNothing{};
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(kNothing.data(), kDataOffset);
  uint64_t data_bytes = 0;
  for (const std::span<const std::byte> tensor : tensors_) {
    out.write(reinterpret_cast<const char*>(tensor.data()), std::ssize(tensor));
    const size_t gap = aligned(tensor.size()) - tensor.size();
    out.write(kNothing.data(), static_cast<std::streamsize>(gap));
    data_bytes += aligned(tensor.size());
  }
  out.flush();
  if (!out || data_bytes == 0) throw DeviceError(concat(path, ": cannot be written"));
  Parts parts(data_bytes);
  std::vector<std::byte> scratch(kPartBytes);
  const FileReader written(path);
  for (int64_t i = 0; i < std::ssize(parts.checksums); ++i) parts.read(written, i, scratch.data());
  const PackedHead head = make_head(backend, data_bytes, parts.whole());
  out.seekp(0);
  out.write(reinterpret_cast<const char*>(&head), sizeof(head));
  out.close();
  if (!out) throw DeviceError(concat(path, ": cannot be written"));
}

}  // namespace f1::cpu
