// Python's view of files: read_gguf(), MappedFile and TensorSource.
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "core/error.h"
#include "weights/gguf.h"
#include "weights/source.h"

namespace f1 {
namespace {

namespace py = pybind11;

// A metadata table as Python objects, made once.
struct PythonGguf {
  py::dict metadata;
  py::list tensors;
};

py::object text(const GgufFile& gguf, std::string_view bytes, const std::string& what) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "strict");
  if (decoded) return py::reinterpret_steal<py::object>(decoded);
  PyErr_Clear();
  const auto* start = reinterpret_cast<const char*>(gguf.file->bytes(0, 0).data());
  throw InvalidArgument(concat(gguf.file->path(), ": ", what, " at offset ", bytes.data() - start,
                               ": not valid UTF-8"));
}

// Strings in arrays (vocabularies, merges) stay bytes: tokens need not be UTF-8.
py::object array_item(const GgufScalar& value) {
  if (const auto* string = std::get_if<std::string_view>(&value))
    return py::bytes(string->data(), string->size());
  return std::visit([](auto number) { return py::cast(number); }, value);
}

py::object metadata_value(const GgufFile& gguf, const GgufValue& value, const std::string& key) {
  if (const auto* array = std::get_if<GgufArray>(&value)) {
    py::list list(array->count);
    size_t i = 0;
    for_each_item(gguf, *array, [&](const GgufScalar& item) { list[i++] = array_item(item); });
    return list;
  }
  const GgufScalar& scalar = std::get<GgufScalar>(value);
  if (const auto* string = std::get_if<std::string_view>(&scalar))
    return text(gguf, *string, concat("metadata '", key, "'"));
  return std::visit([](auto number) { return py::cast(number); }, scalar);
}

PythonGguf read_gguf_for_python(const std::string& path) {
  const GgufFile gguf = read_gguf(path);
  PythonGguf result;
  for (const auto& [key, value] : gguf.metadata)
    result.metadata[py::str(key)] = metadata_value(gguf, value, key);
  for (const GgufTensor& tensor : gguf.tensors)
    result.tensors.append(py::make_tuple(tensor.name, dtype_info(tensor.dtype).name, tensor.shape,
                                         tensor.offset, tensor.num_bytes));
  return result;
}

TensorSource make_source(std::shared_ptr<MappedFile> file, uint64_t offset, uint64_t num_bytes,
                         const std::string& dtype, std::vector<int64_t> shape) {
  TensorSource source{std::move(file), offset, num_bytes, dtype_from_name(dtype), std::move(shape)};
  source.tensor(concat("at offset ", offset));  // checks
  return source;
}

}  // namespace

void bind_weights(py::module_& module) {
  py::class_<PythonGguf>(module, "GgufFile")
      .def_readonly("metadata", &PythonGguf::metadata,
                    "Values by key; strings are str, arrays of strings lists of bytes.")
      .def_readonly("tensors", &PythonGguf::tensors,
                    "Tuples (name, dtype, shape outermost first, offset in the file, num_bytes).");
  module.def("read_gguf", &read_gguf_for_python, py::arg("path"),
             "Read a GGUF file's metadata and tensor table. Raises InvalidArgument naming the "
             "tensor or key, the field and the offset.");
  py::class_<MappedFile, std::shared_ptr<MappedFile>>(module, "MappedFile")
      .def(py::init<const std::string&>(), py::arg("path"),
           "Map a file, read-only; all its tensors share the mapping. Raises InvalidArgument when it "
           "cannot be opened or is empty.");
  py::class_<TensorSource>(module, "TensorSource")
      .def(py::init(&make_source), py::arg("file").none(false), py::arg("offset"),
           py::arg("num_bytes"), py::arg("dtype"), py::arg("shape"),
           "A tensor's bytes in a file; raises InvalidArgument when they leave the file or do not "
           "fit dtype and shape (outermost dimension first).")
      .def_property_readonly("dtype",
                             [](const TensorSource& s) { return dtype_info(s.dtype).name; })
      .def_readonly("shape", &TensorSource::shape)
      .def_readonly("offset", &TensorSource::offset)
      .def_readonly("num_bytes", &TensorSource::num_bytes);
}

}  // namespace f1
