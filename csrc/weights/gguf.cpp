#include "weights/gguf.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "core/error.h"

namespace f1 {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxDimensions = 4;

// What the largest vocabularies take as objects of a caller's, twice over: a header that stands for
// more is not read to its end. A few bytes of the file can stand for many.
constexpr uint64_t kMaxHeaderBytes = 64 << 20;
constexpr uint64_t kEntryBytes = 512;  // of a key and its value, of a tensor: names, shape, places
constexpr uint64_t kNumberBytes = 40;
constexpr uint64_t kStringBytes = 48;  // and those that it holds

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
  kNumValueTypes
};

// Walks the file; `what` says what is being read, for errors.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file, uint64_t offset = 0) : file_(file), offset_(offset) {}

  uint64_t offset() const { return offset_; }

  template <typename T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string_view string(std::string_view what) {
    const uint64_t length = number<uint64_t>(what);
    return {reinterpret_cast<const char*>(take(length, what)), static_cast<size_t>(length)};
  }

  // A key or a tensor's name: printable ASCII, so that errors can quote it.
  std::string name(std::string_view what) {
    const uint64_t at = offset_;
    const std::string_view value = string(what);
    if (!std::ranges::all_of(value, [](char c) { return c > 0x1f && c < 0x7f; }))
      fail(what, at, "is not printable ASCII");
    return std::string(value);
  }

  // A number of items of at least `min_bytes` each: more than the rest of the file holds is
  // garbage, and must not reach an allocation.
  uint64_t count(uint64_t min_bytes, std::string_view what) {
    const uint64_t at = offset_;
    const uint64_t value = number<uint64_t>(what);
    if (value > (file_.size() - offset_) / min_bytes)
      fail(what, at, concat("says ", value, ", more than this file can hold"));
    return value;
  }

  void skip(uint64_t size, std::string_view what) { take(size, what); }

  // Counts what the caller will make of `count` things read here.
  void charge(uint64_t bytes, uint64_t count, std::string_view what) {
    if (count > charge_left_ / bytes)
      fail(what, offset_, concat("more than ", kMaxHeaderBytes >> 20, " MiB of names and values"));
    charge_left_ -= count * bytes;
  }

  [[noreturn]] void fail(std::string_view what, uint64_t at, std::string_view why) const {
    throw InvalidArgument(concat(file_.path(), ": ", what, " at offset ", at, ": ", why));
  }

 private:
  const std::byte* take(uint64_t size, std::string_view what) {
    if (size > file_.size() - offset_)
      fail(what, offset_,
           concat("needs ", size, " bytes, the file ends after ", file_.size() - offset_,
                  " (truncated or garbled)"));
    const std::byte* data = file_.bytes(offset_, size).data();
    offset_ += size;
    return data;
  }

  const MappedFile& file_;
  uint64_t offset_;
  uint64_t charge_left_ = kMaxHeaderBytes;
};

GgufScalar read_scalar(Cursor& cursor, uint32_t type, std::string_view what) {
  switch (type) {
    case kUint8:
      return uint64_t{cursor.number<uint8_t>(what)};
    case kInt8:
      return int64_t{cursor.number<int8_t>(what)};
    case kUint16:
      return uint64_t{cursor.number<uint16_t>(what)};
    case kInt16:
      return int64_t{cursor.number<int16_t>(what)};
    case kUint32:
      return uint64_t{cursor.number<uint32_t>(what)};
    case kInt32:
      return int64_t{cursor.number<int32_t>(what)};
    case kUint64:
      return cursor.number<uint64_t>(what);
    case kInt64:
      return cursor.number<int64_t>(what);
    case kFloat32:
      return double{cursor.number<float>(what)};
    case kFloat64:
      return cursor.number<double>(what);
    case kBool:
      return cursor.number<uint8_t>(what) != 0;
    case kString:
      return cursor.string(what);
  }
  cursor.fail(what, cursor.offset(), concat("unknown or nested value type ", type));
}

void charge_string(Cursor& cursor, std::string_view string, std::string_view what) {
  cursor.charge(kStringBytes + string.size(), 1, what);
}

GgufArray read_array(Cursor& cursor, const std::string& what) {
  const uint32_t item_type = cursor.number<uint32_t>(what + " item type");
  constexpr uint64_t kItemBytes[kNumValueTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
  if (item_type >= kNumValueTypes || item_type == kArray)
    cursor.fail(what, cursor.offset(), concat("unknown or nested item type ", item_type));
  const uint64_t count = cursor.count(kItemBytes[item_type], what + " array length");
  const GgufArray array{item_type, count, cursor.offset()};
  if (item_type == kString) {
    for (uint64_t i = 0; i < count; ++i) charge_string(cursor, cursor.string(what), what);
  } else {
    cursor.charge(kNumberBytes, count, what);
    cursor.skip(count * kItemBytes[item_type], what);
  }
  return array;
}

GgufValue read_value(Cursor& cursor, const std::string& key) {
  const std::string what = concat("metadata '", key, "'");
  const uint32_t type = cursor.number<uint32_t>(what + " type");
  if (type == kArray) return read_array(cursor, what);
  const GgufScalar scalar = read_scalar(cursor, type, what);
  if (type == kString) charge_string(cursor, std::get<std::string_view>(scalar), what);
  return scalar;
}

DType dtype_from_id(const Cursor& cursor, uint32_t id, uint64_t at, std::string_view what) {
  switch (id) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kQ4_0;
    case 3:
      return DType::kQ4_1;
    case 6:
      return DType::kQ5_0;
    case 7:
      return DType::kQ5_1;
    case 8:
      return DType::kQ8_0;
    case 12:
      return DType::kQ4_K;
    case 13:
      return DType::kQ5_K;
    case 14:
      return DType::kQ6_K;
    case 30:
      return DType::kBF16;
  }
  cursor.fail(what, at,
              concat("unsupported ggml type ", id,
                     "; supported are F32, F16, BF16, Q4_0, "
                     "Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K"));
}

// Reads one entry of the tensor table; its offset still counts from the start of the data.
GgufTensor read_tensor(Cursor& cursor) {
  GgufTensor tensor;
  tensor.name = cursor.name("tensor name");
  const std::string what = concat("tensor '", tensor.name, "'");
  uint64_t at = cursor.offset();
  const uint32_t num_dimensions = cursor.number<uint32_t>(what + " number of dimensions");
  if (num_dimensions == 0 || num_dimensions > kMaxDimensions)
    cursor.fail(what + " number of dimensions", at,
                concat("is ", num_dimensions, ", must be 1 to 4"));
  tensor.shape.resize(num_dimensions);
  for (uint32_t i = 0; i < num_dimensions; ++i)
    tensor.shape[num_dimensions - 1 - i] = cursor.number<int64_t>(what + " dimensions");
  at = cursor.offset();
  const uint32_t type_id = cursor.number<uint32_t>(what + " type");
  tensor.dtype = dtype_from_id(cursor, type_id, at, what + " type");
  tensor.offset = cursor.number<uint64_t>(what + " offset");
  try {
    tensor.num_bytes = tensor_bytes(tensor.dtype, tensor.shape, what);
  } catch (const InvalidArgument& error) {
    cursor.fail(what + " dimensions", at, error.what());
  }
  return tensor;
}

uint64_t alignment_of(const Cursor& cursor, const GgufFile& gguf) {
  for (const auto& [key, value] : gguf.metadata) {
    if (key != "general.alignment") continue;
    const auto* scalar = std::get_if<GgufScalar>(&value);
    const auto* alignment = scalar ? std::get_if<uint64_t>(scalar) : nullptr;
    if (!alignment || *alignment < 8 || *alignment > kMaxAlignment ||
        (*alignment & (*alignment - 1)) != 0)
      cursor.fail("metadata 'general.alignment'", cursor.offset(),
                  concat("must be a power of two from 8 to ", kMaxAlignment));
    return *alignment;
  }
  return kDefaultAlignment;
}

// Turns offsets into offsets from the start of the file, and checks that the tensors lie in the
// file and apart.
void place_tensors(const Cursor& cursor, GgufFile& gguf) {
  const uint64_t alignment = alignment_of(cursor, gguf);
  const uint64_t data_begin = (cursor.offset() + alignment - 1) / alignment * alignment;
  std::vector<const GgufTensor*> by_offset;
  std::set<std::string_view> names;
  for (GgufTensor& tensor : gguf.tensors) {
    const std::string what = concat("tensor '", tensor.name, "' offset");
    if (!names.insert(tensor.name).second)
      cursor.fail(what, tensor.offset, "two tensors have this name");
    if (tensor.offset % alignment != 0)
      cursor.fail(what, tensor.offset, concat("is no multiple of the alignment ", alignment));
    uint64_t end;
    if (__builtin_add_overflow(tensor.offset, data_begin, &tensor.offset) ||
        __builtin_add_overflow(tensor.offset, tensor.num_bytes, &end) || end > gguf.file->size())
      cursor.fail(what, tensor.offset,
                  concat("its ", tensor.num_bytes, " bytes leave the file of ", gguf.file->size(),
                         " bytes (truncated or garbled)"));
    by_offset.push_back(&tensor);
  }
  std::ranges::sort(by_offset, {}, &GgufTensor::offset);
  for (size_t i = 1; i < by_offset.size(); ++i)
    if (by_offset[i - 1]->offset + by_offset[i - 1]->num_bytes > by_offset[i]->offset)
      cursor.fail(concat("tensor '", by_offset[i]->name, "' offset"), by_offset[i]->offset,
                  concat("overlaps tensor '", by_offset[i - 1]->name, "'"));
}

}  // namespace

GgufFile read_gguf(const std::string& path) {
  GgufFile gguf;
  auto file = std::make_shared<const MappedFile>(path);
  gguf.file = file;
  Cursor cursor(*file);
  if (cursor.number<uint32_t>("magic") != kMagic)
    cursor.fail("magic", 0, "is not 'GGUF': not a GGUF file");
  const uint32_t version = cursor.number<uint32_t>("version");
  if (version != 2 && version != 3)
    cursor.fail("version", 4, concat("is ", version, ", supported are 2 and 3 (little-endian)"));
  // The smallest entries: name length, one dimension, type, offset; key length, type, one byte.
  const uint64_t num_tensors = cursor.count(8 + 4 + 8 + 4 + 8, "number of tensors");
  const uint64_t num_metadata = cursor.count(8 + 4 + 1, "number of metadata entries");
  std::set<std::string> keys;
  for (uint64_t i = 0; i < num_metadata; ++i) {
    const uint64_t at = cursor.offset();
    const std::string key = cursor.name("metadata key");
    if (!keys.insert(key).second)
      cursor.fail("metadata key", at, concat("'", key, "' appears twice"));
    cursor.charge(kEntryBytes + 3 * key.size(), 1, "metadata key");
    gguf.metadata.emplace_back(key, read_value(cursor, key));
  }
  for (uint64_t i = 0; i < num_tensors; ++i) {
    gguf.tensors.push_back(read_tensor(cursor));
    cursor.charge(kEntryBytes + 3 * gguf.tensors.back().name.size(), 1, "tensor name");
  }
  place_tensors(cursor, gguf);
  return gguf;
}

void for_each_item(const GgufFile& gguf, const GgufArray& array,
                   const std::function<void(const GgufScalar&)>& take) {
  Cursor cursor(*gguf.file, array.offset);
  for (uint64_t i = 0; i < array.count; ++i)
    take(read_scalar(cursor, array.item_type, "item of an array"));
}

}  // namespace f1
