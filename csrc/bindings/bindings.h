// One function per file of bindings; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

namespace f1 {

void bind_weights(pybind11::module_& module);
void bind_model(pybind11::module_& module);
void bind_engine(pybind11::module_& module);
void bind_engine_testing(pybind11::module_& module);
void bind_testing(pybind11::module_& module);
void bind_ceilings(pybind11::module_& module);

}  // namespace f1
