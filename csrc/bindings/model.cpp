// Python's view of a model: config, weights and teacher-forced logits.
#include "model/model.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/bindings.h"
#include "core/error.h"

namespace f1 {
namespace {

namespace py = pybind11;
using TokenArray = py::array_t<int32_t, py::array::c_style>;

constexpr int kDefaultChunk = 128;

std::shared_ptr<Model> make_model(ModelConfig config,
                                  const std::map<std::string, TensorSource>& sources,
                                  int num_threads, const std::string& isa,
                                  const std::string& packed_path) {
  return std::make_shared<Model>(std::move(config), sources,
                                 make_backend({num_threads, isa, packed_path}));
}

// One sequence from position 0, in chunks, with a cache of its own.
void run_logits(const Model& model, std::span<const int32_t> token_ids, int chunk, float* out) {
  const int num_tokens = static_cast<int>(token_ids.size());
  const int num_pages = (num_tokens + kPageSize - 1) / kPageSize;
  const auto cache = model.make_kv_cache(num_pages);
  const auto activations = model.make_activations(chunk);
  const auto logits = model.make_logits(chunk);
  const size_t vocab_size = static_cast<size_t>(model.config().vocab_size);
  Batch batch;
  for (int page = 0; page < num_pages; ++page) batch.page_ids.push_back(page);
  batch.page_begin = {0, num_pages};
  for (int begin = 0; begin < num_tokens; begin += chunk) {
    const int count = std::min(chunk, num_tokens - begin);
    batch.token_ids.assign(token_ids.begin() + begin, token_ids.begin() + begin + count);
    batch.sequence_of.assign(static_cast<size_t>(count), 0);
    batch.positions.clear();
    batch.head_tokens.clear();
    std::vector<HeadRow> rows;
    for (int i = 0; i < count; ++i) {
      batch.positions.push_back(begin + i);
      batch.head_tokens.push_back(i);
      rows.push_back({i, {}});
    }
    model.forward(batch, *cache, *activations);
    model.head(rows, *activations, *logits);
    for (int i = 0; i < count; ++i, out += vocab_size) logits->read(i, {out, vocab_size});
  }
}

py::array_t<float> logits(const Model& model, const TokenArray& token_ids, int chunk) {
  if (token_ids.ndim() != 1) throw InvalidArgument("token_ids: must have one dimension");
  if (chunk < 0) throw InvalidArgument(concat("chunk is ", chunk, ", must be >= 0"));
  const std::span<const int32_t> ids(token_ids.data(), static_cast<size_t>(token_ids.size()));
  for (const int32_t id : ids)
    if (id < 0 || id >= model.config().vocab_size)
      throw InvalidArgument(
          concat("token id ", id, " is not in the vocabulary of ", model.config().vocab_size));
  py::array_t<float> out({token_ids.shape(0), py::ssize_t{model.config().vocab_size}});
  float* data = out.mutable_data();
  const py::gil_scoped_release released;
  const int limit = static_cast<int>(std::max<size_t>(ids.size(), 1));
  run_logits(model, ids, std::min(chunk == 0 ? kDefaultChunk : chunk, limit), data);
  return out;
}

ModelConfig make_config(int num_layers, int hidden_size, int intermediate_size, int num_heads,
                        int num_kv_heads, int head_dim, int vocab_size, int max_positions,
                        float norm_eps, std::vector<float> rope_inv_freq, bool rope_interleaved) {
  return {num_layers,      hidden_size, intermediate_size, num_heads, num_kv_heads,
          head_dim,        vocab_size,  max_positions,     norm_eps,  std::move(rope_inv_freq),
          rope_interleaved};
}

}  // namespace

void bind_model(py::module_& module) {
  py::class_<ModelConfig>(module, "ModelConfig")
      .def(py::init(&make_config), py::kw_only(), py::arg("num_layers"), py::arg("hidden_size"),
           py::arg("intermediate_size"), py::arg("num_heads"), py::arg("num_kv_heads"),
           py::arg("head_dim"), py::arg("vocab_size"), py::arg("max_positions"),
           py::arg("norm_eps"), py::arg("rope_inv_freq"), py::arg("rope_interleaved"))
      .def_readonly("num_layers", &ModelConfig::num_layers)
      .def_readonly("hidden_size", &ModelConfig::hidden_size)
      .def_readonly("intermediate_size", &ModelConfig::intermediate_size)
      .def_readonly("num_heads", &ModelConfig::num_heads)
      .def_readonly("num_kv_heads", &ModelConfig::num_kv_heads)
      .def_readonly("head_dim", &ModelConfig::head_dim)
      .def_readonly("vocab_size", &ModelConfig::vocab_size)
      .def_readonly("max_positions", &ModelConfig::max_positions)
      .def_readonly("norm_eps", &ModelConfig::norm_eps)
      .def_readonly("rope_inv_freq", &ModelConfig::rope_inv_freq)
      .def_readonly("rope_interleaved", &ModelConfig::rope_interleaved);
  py::class_<Model, std::shared_ptr<Model>>(module, "Model")
      .def(py::init(&make_model), py::arg("config"), py::arg("sources"), py::arg("num_threads") = 0,
           py::arg("isa") = "auto", py::arg("packed_path") = "",
           py::call_guard<py::gil_scoped_release>(),
           "Pack the weights. `sources` maps the names of csrc/model/model.h to TensorSource; "
           "num_threads 0 means one a core; isa is 'auto', 'scalar', 'avx2', 'avx512' or 'cuda'. Raises "
           "InvalidArgument naming the tensor.")
      .def(
          "save_packed", [](const Model& m, const std::string& path) {
            m.backend().save_packed(path);
          },
          py::arg("path"), py::call_guard<py::gil_scoped_release>(),
          "Write the packed weights to a file for the packed_path of a later Model of the same "
          "tensors and build. Raises DeviceError.")
      .def_property_readonly("config", &Model::config)
      .def_property_readonly("backend_name", [](const Model& m) { return m.backend().name(); })
      .def_property_readonly("packed_bytes", &Model::packed_bytes)
      .def_property_readonly("kv_page_bytes", &Model::kv_page_bytes)
      .def(
          "logits", &logits, py::arg("token_ids"), py::arg("chunk") = 0,
          "Teacher-forced logits, float32 [T, V], of token_ids, int32 [T], computed `chunk` tokens "
          "at a time (0: a good default).");
}

}  // namespace f1
