// For the tests: every stage on numpy arrays (`_core.testing.Stages`) and the thread pool.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "backend/cpu/thread_pool.h"
#include "bindings/bindings.h"
#include "core/error.h"
#include "model/model.h"

namespace f1 {
namespace {

namespace py = pybind11;
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

Activations::Part part_of(const std::string& name) {
  if (name == "hidden") return Activations::Part::kHidden;
  if (name == "query") return Activations::Part::kQuery;
  if (name == "attended") return Activations::Part::kAttended;
  if (name == "mlp") return Activations::Part::kMlp;
  if (name == "final") return Activations::Part::kFinal;
  throw InvalidArgument(concat("no part '", name, "'"));
}

// One model's stages run one by one over one batch, with what flows between them open to view.
class Stages {
 public:
  Stages(std::shared_ptr<Model> model, int num_pages, int max_tokens)
      : model_(std::move(model)),
        cache_(model_->make_kv_cache(num_pages)),
        activations_(model_->make_activations(max_tokens)) {}

  void set_batch(Batch batch) { batch_ = std::move(batch); }
  void forward() { model_->forward(batch_, *cache_, *activations_); }

  void run(const std::string& stage, int layer) {
    Backend& backend = model_->backend();
    const LayerWeights& weights = model_->weights().layers.at(static_cast<size_t>(layer));
    if (stage == "embed") return backend.embed(*model_->weights().embed, batch_, *activations_);
    if (stage == "qkv") return backend.qkv(weights, layer, batch_, *cache_, *activations_);
    if (stage == "attend") return backend.attend(layer, batch_, *cache_, *activations_);
    if (stage == "attn_out") return backend.attn_out(weights, batch_, *activations_);
    if (stage == "mlp_up") return backend.mlp_up(weights, batch_, *activations_);
    if (stage == "mlp_down") return backend.mlp_down(weights, batch_, *activations_);
    if (stage == "final_norm")
      return backend.final_norm(*model_->weights().final_norm, batch_, *activations_);
    throw InvalidArgument(concat("no stage '", stage, "'"));
  }

  FloatArray read(const std::string& part, int64_t rows, int64_t width) const {
    FloatArray out({rows, width});
    activations_->read(part_of(part), {out.mutable_data(), static_cast<size_t>(out.size())});
    return out;
  }

  void write(const std::string& part, const FloatArray& values) {
    activations_->write(part_of(part), {values.data(), static_cast<size_t>(values.size())});
  }

  // One row for each (head index, listed tokens); beyond the listed ones it is NaN.
  FloatArray head(const std::vector<std::pair<int, std::vector<int32_t>>>& wanted) {
    const py::ssize_t vocab = model_->config().vocab_size;
    const int num_rows = static_cast<int>(wanted.size());
    FloatArray out({py::ssize_t{num_rows}, vocab});
    const auto row = [&](int i) {
      return std::span(out.mutable_data() + i * vocab, static_cast<size_t>(vocab));
    };
    std::fill_n(out.mutable_data(), out.size(), std::numeric_limits<float>::quiet_NaN());
    const auto logits = model_->make_logits(num_rows);
    std::vector<HeadRow> rows;
    for (const auto& [index, listed] : wanted) rows.push_back({index, listed});
    for (int i = 0; i < num_rows; ++i) logits->write(i, row(i));
    model_->head(rows, *activations_, *logits);
    for (int i = 0; i < num_rows; ++i) logits->read(i, row(i));
    return out;
  }

  void copy_page(int from, int to) { cache_->copy_page(from, to); }

  py::bytes read_page(int page) const {
    std::string bytes(model_->kv_page_bytes(), '\0');
    cache_->read_page(page, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }

  void write_page(int page, const std::string& bytes) {
    cache_->write_page(page, std::as_bytes(std::span(bytes)));
  }

 private:
  std::shared_ptr<Model> model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Activations> activations_;
  Batch batch_;
};

// How often each index of [0, size) was run, after `num_runs` runs; each run throws at index `bad`.
std::vector<int> run_pool(int num_threads, int64_t size, int64_t chunk, int num_runs, int64_t bad) {
  cpu::ThreadPool pool(num_threads);
  std::vector<int> visits(static_cast<size_t>(size));
  const auto task = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      ++visits[static_cast<size_t>(i)];
      if (i == bad) throw InternalError("bad index");
    }
  };
  int num_thrown = 0;
  for (int run = 0; run < num_runs; ++run) {
    try {
      pool.run(size, chunk, task);
    } catch (const InternalError&) {
      ++num_thrown;
    }
  }
  F1_CHECK(num_thrown == (bad >= 0 && bad < size ? num_runs : 0), num_thrown);
  return visits;
}

}  // namespace

void bind_testing(py::module_& module) {
  py::module_ testing = module.def_submodule("testing");
  testing.def("isa_name", [](const std::string& isa) { return make_backend({1, isa})->name(); });
  testing.def("run_pool", &run_pool, py::arg("num_threads"), py::arg("size"), py::arg("chunk"),
              py::arg("num_runs") = 1, py::arg("bad") = -1);
  py::class_<Batch>(testing, "Batch")
      .def(py::init([](std::vector<int32_t> token_ids, std::vector<int32_t> positions,
                       std::vector<int32_t> sequence_of, std::vector<int32_t> page_ids,
                       std::vector<int32_t> page_begin, std::vector<int32_t> head_tokens,
                       std::vector<int32_t> mixed_tokens, std::vector<int32_t> mix_begin,
                       std::vector<int32_t> mix_ids, std::vector<float> mix_weights) {
             return Batch{std::move(token_ids),    std::move(positions),  std::move(sequence_of),
                          std::move(page_ids),     std::move(page_begin), std::move(head_tokens),
                          std::move(mixed_tokens), std::move(mix_begin),  std::move(mix_ids),
                          std::move(mix_weights)};
           }),
           py::arg("token_ids"), py::arg("positions"), py::arg("sequence_of"), py::arg("page_ids"),
           py::arg("page_begin"), py::arg("head_tokens"),
           py::arg("mixed_tokens") = std::vector<int32_t>(),
           py::arg("mix_begin") = std::vector<int32_t>{0},
           py::arg("mix_ids") = std::vector<int32_t>(),
           py::arg("mix_weights") = std::vector<float>());
  py::class_<Stages>(testing, "Stages")
      .def(py::init<std::shared_ptr<Model>, int, int>(), py::arg("model").none(false),
           py::arg("num_pages"), py::arg("max_tokens"))
      .def("set_batch", &Stages::set_batch)
      .def("forward", &Stages::forward)
      .def("run", &Stages::run, py::arg("stage"), py::arg("layer") = 0)
      .def("read", &Stages::read, py::arg("part"), py::arg("rows"), py::arg("width"))
      .def("write", &Stages::write, py::arg("part"), py::arg("values"))
      .def("head", &Stages::head, py::arg("rows"))
      .def("copy_page", &Stages::copy_page, py::arg("from_page"), py::arg("to_page"))
      .def("read_page", &Stages::read_page, py::arg("page"))
      .def("write_page",
           [](Stages& self, int page, const py::bytes& bytes) { self.write_page(page, bytes); });
}

}  // namespace f1
