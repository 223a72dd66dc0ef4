// Every stage on numpy arrays, for the tests.
#include "bindings/bindings.h"

namespace f1 {

void bind_testing(pybind11::module_& module) { module.def_submodule("testing"); }

}  // namespace f1
