// The three ways a call into the core can fail, and the one check macro.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace f1 {

// The caller asked for something that cannot be: a bad file, shape, option or id.
struct InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// The device failed: out of memory, a lost GPU.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A bug of ours.
struct InternalError : std::logic_error {
  using std::logic_error::logic_error;
};

template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace f1

// An invariant of ours, checked in every build: throws InternalError naming the condition.
#define F1_CHECK(condition, ...)                                                         \
  do {                                                                                   \
    if (!(condition))                                                                    \
      throw ::f1::InternalError(                                                         \
          ::f1::concat(__FILE__, ":", __LINE__, ": ", #condition, ". ", ##__VA_ARGS__)); \
  } while (0)
