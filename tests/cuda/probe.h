// What the probe can do beyond the backend: on_shim.cpp or on_device.cpp has it.
#pragma once

#include <istream>
#include <string>

namespace f1 {

// False where there is no such command.
bool run_elsewhere(const std::string& command, std::istream& in);

}  // namespace f1
