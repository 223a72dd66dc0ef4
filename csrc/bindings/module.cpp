// The Python module f1._core.
#include "bindings/bindings.h"
#include "core/error.h"

PYBIND11_MODULE(_core, module) {
  namespace py = pybind11;
  py::register_exception<f1::InvalidArgument>(module, "InvalidArgument", PyExc_ValueError);
  py::register_exception<f1::DeviceError>(module, "DeviceError", PyExc_RuntimeError);
  py::register_exception<f1::InternalError>(module, "InternalError", PyExc_RuntimeError);
  f1::bind_weights(module);
  f1::bind_model(module);
  f1::bind_engine(module);
  f1::bind_engine_testing(module);
  f1::bind_testing(module);
  f1::bind_ceilings(module);
}
