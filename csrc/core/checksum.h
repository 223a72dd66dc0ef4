// A checksum for data at rest, at the speed of memory. It finds accidents, not forgeries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace f1 {

uint64_t checksum(std::span<const std::byte> bytes);

}  // namespace f1
