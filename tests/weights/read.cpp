// Reads the GGUF files whose paths come in, as the bindings do, and touches all that was found.
//
//   in:  a path a line      out: "read TENSORS ITEMS" or "refused MESSAGE", then "USED SECONDS"
//
// USED is how much of memory the reading took at its peak beyond what the process had before, and
// what the file itself is, in bytes; SECONDS of the processor.
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>

#include "core/error.h"
#include "weights/gguf.h"
#include "weights/source.h"

namespace {

uint64_t kilobytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    uint64_t value = 0;
    if (word == field && status >> value) return value;
  }
  return 0;
}

void forget_the_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

double seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

uint64_t size_of(const f1::GgufScalar& scalar) {
  const auto* string = std::get_if<std::string_view>(&scalar);
  uint64_t sum = 1;
  if (string)
    for (char c : *string) sum += c == 'x';
  return sum;
}

std::string read(const std::string& path) {
  const f1::GgufFile gguf = f1::read_gguf(path);
  uint64_t num_items = 0, sum = 0;
  const auto see = [&](const f1::GgufScalar& scalar) {
    ++num_items;
    sum += size_of(scalar);
  };
  for (const auto& [key, value] : gguf.metadata) {
    if (const auto* array = std::get_if<f1::GgufArray>(&value)) {
      f1::for_each_item(gguf, *array, see);
    } else {
      see(std::get<f1::GgufScalar>(value));
    }
  }
  for (const f1::GgufTensor& tensor : gguf.tensors) {
    const f1::Tensor view = f1::TensorSource{gguf.file, tensor.offset, tensor.num_bytes,
                                             tensor.dtype, tensor.shape}
                                .tensor(tensor.name);
    const size_t row_bytes = f1::row_bytes(view.dtype, view.inputs);
    for (int64_t row : {int64_t{0}, view.rows - 1})
      for (size_t i : {size_t{0}, row_bytes - 1}) sum += static_cast<uint64_t>(view.row(row)[i]);
  }
  return f1::concat("read ", gguf.tensors.size(), " ", num_items, sum == 0 ? "!" : "");
}

}  // namespace

int main() {
  for (std::string path; std::getline(std::cin, path);) {
    forget_the_peak();
    const uint64_t before = kilobytes("VmRSS:");
    const double begin = seconds();
    std::string answer;
    try {
      answer = read(path);
    } catch (const f1::InvalidArgument& error) {
      answer = f1::concat("refused ", error.what());
    }
    const double taken = seconds() - begin;
    const uint64_t peak = kilobytes("VmHWM:");
    std::cout << answer << "\n" << (peak > before ? peak - before : 0) * 1024 << " " << taken
              << std::endl;
  }
}
