// Faults, each for the tool that has to see it: what reports nothing here proves nothing elsewhere.
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

extern "C" __attribute__((visibility("default"))) int planted(const char* fault, int one) {
  const std::string kind = fault;
  if (kind == "overflow") {
    int* four = new int[4]();
    const int beyond = four[3 + one];
    delete[] four;
    return beyond;
  }
  if (kind == "after free") {
    int* value = new int(one);
    delete value;
    return *value;
  }
  if (kind == "leak") {
    static void* volatile kept = nullptr;
    kept = std::malloc(64);
    kept = nullptr;
    return 0;
  }
  if (kind == "undefined") return INT_MAX + one;
  if (kind == "uninitialised") {
    char* bytes = static_cast<char*>(std::malloc(64));
    if (bytes[one] == 'x') std::puts("x");
    std::free(bytes);
    return 0;
  }
  if (kind == "race") {
    int shared = 0;
    const auto count = [&] {
      for (int i = 0; i < 10000; ++i) shared += one;
    };
    std::thread other(count);
    count();
    other.join();
    return shared;
  }
  return 2;
}

int main(int argc, char** argv) { return argc < 2 ? 2 : (planted(argv[1], argc - 1), 0); }
