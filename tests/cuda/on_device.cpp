#include "probe.h"

namespace f1 {

bool run_elsewhere(const std::string&, std::istream&) { return false; }

}  // namespace f1
