// What the engine is made of, for tests: `_core.testing.Scheduler`, `sample` and `philox`. They
// need no model.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "backend/backend.h"
#include "bindings/bindings.h"
#include "core/error.h"
#include "engine/scheduler.h"

namespace f1 {
namespace {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// A scheduler whose steps compute nothing: the test plays the model.
class SchedulerProbe {
 public:
  SchedulerProbe(int num_pages, int max_batch_tokens, int max_sequences, bool prefix_reuse)
      : scheduler_({num_pages, max_batch_tokens, max_sequences, prefix_reuse, 8}) {}

  int64_t submit(std::vector<int32_t> token_ids, int max_tokens, int soft_steps,
                 int soft_position) {
    Request request;
    request.token_ids = std::move(token_ids);
    request.max_tokens = max_tokens;
    request.soft = {.num_steps = soft_steps, .position = soft_position};
    scheduler_.submit(std::make_unique<Sequence>(next_id_, std::move(request)));
    return next_id_++;
  }

  void finish(int64_t id) { scheduler_.finish(sequence(id)); }
  void append(int64_t id, int32_t token_id) { sequence(id).append(token_id); }
  // Each returns whether the sequence goes on thinking.
  bool think(int64_t id, int32_t token_id) {
    sequence(id).think({{token_id}, {1.0f}});
    return sequence(id).is_thinking;
  }
  bool end_thinking(int64_t id) {
    sequence(id).end_thinking();
    return false;
  }
  void draft(int64_t id, std::vector<int32_t> token_ids) {
    sequence(id).drafts = std::move(token_ids);
  }
  void accept_drafts(int64_t id, int num_tokens) {
    sequence(id).drafts.clear();
    scheduler_.accept_drafts(sequence(id), num_tokens);
  }

  // (id of the child or None, [(from, to)] of pages to copy)
  py::tuple fork(int64_t id) {
    py::list copies;
    const auto copy = [&](int32_t from, int32_t to) { copies.append(py::make_tuple(from, to)); };
    const Sequence* child = scheduler_.fork(sequence(id), next_id_, 1, copy);
    if (child == nullptr) return py::make_tuple(py::none(), copies);
    return py::make_tuple(next_id_++, copies);
  }

  // [(id, first position, number of tokens, page ids, number of drafts)] of the next step.
  py::list schedule() {
    py::list chunks;
    for (const Chunk& chunk : scheduler_.schedule()) {
      const Sequence& sequence = *chunk.sequence;
      chunks.append(py::make_tuple(sequence.id, sequence.num_computed, chunk.num_tokens,
                                   sequence.page_ids, chunk.num_drafts));
    }
    return chunks;
  }

  // [(index, page id)] of the pages that the test is to fill now.
  std::vector<std::pair<int, int32_t>> restore_prefix(const std::vector<int32_t>& token_ids) {
    std::vector<std::pair<int, int32_t>> written;
    scheduler_.restore_prefix(
        token_ids, [&](int index, int32_t page_id) { written.emplace_back(index, page_id); });
    return written;
  }

  void hold_prefix(const std::vector<int32_t>& token_ids, int64_t until) {
    scheduler_.hold_prefix(token_ids, until);
  }

  Scheduler& scheduler() { return scheduler_; }

 private:
  Sequence& sequence(int64_t id) {
    Sequence* found = scheduler_.find(id);
    if (found == nullptr) throw InvalidArgument(concat("no sequence ", id));
    return *found;
  }

  Scheduler scheduler_;
  int64_t next_id_ = 0;
};

py::tuple sample_row(const Array<float>& logits, const SamplingParams& params,
                     const std::optional<Array<int32_t>>& mask,
                     const std::vector<int32_t>& listed_tokens,
                     const std::vector<std::pair<int32_t, int32_t>>& seen, int choice,
                     int position) {
  if (!listed_tokens.empty() && static_cast<py::ssize_t>(listed_tokens.size()) != logits.size()) {
    throw InvalidArgument("one logit for each listed token");
  }
  if (mask && mask->size() * 32 < logits.size()) throw InvalidArgument("mask is too short");
  ModelConfig config;
  config.vocab_size = static_cast<int>(logits.size());
  const auto backend = make_backend({.num_threads = 1});
  const auto row = backend->make_logits(config, 1);
  row->write(0, {logits.data(), static_cast<size_t>(logits.size())});
  std::vector<TokenCount> counts;
  for (const auto& [token_id, num_sampled] : seen) counts.push_back({token_id, num_sampled});
  const SampleRow sample_row{.row = 0,
                             .num_logits = config.vocab_size,
                             .listed_tokens = listed_tokens,
                             .mask = mask ? mask->data() : nullptr,
                             .params = &params,
                             .seen = counts,
                             .choice = choice,
                             .position = position};
  SampledToken token;
  backend->sample(*row, {&sample_row, 1}, {&token, 1});
  return py::make_tuple(token.token_id, token.logprob, token.top);
}

}  // namespace

void bind_engine_testing(py::module_& module) {
  py::module_ testing = module.def_submodule("testing");
  py::class_<SchedulerProbe>(testing, "Scheduler")
      .def(py::init<int, int, int, bool>(), py::arg("num_pages"), py::arg("max_batch_tokens"),
           py::arg("max_sequences"), py::arg("prefix_reuse") = true)
      .def("submit", &SchedulerProbe::submit, py::arg("token_ids"), py::arg("max_tokens"),
           py::arg("soft_steps") = 0, py::arg("soft_position") = 0)
      .def("finish", &SchedulerProbe::finish)
      .def("append", &SchedulerProbe::append)
      .def("think", &SchedulerProbe::think)
      .def("end_thinking", &SchedulerProbe::end_thinking)
      .def("draft", &SchedulerProbe::draft)
      .def("fork", &SchedulerProbe::fork)
      .def("accept_drafts", &SchedulerProbe::accept_drafts)
      .def("schedule", &SchedulerProbe::schedule)
      .def("restore_prefix", &SchedulerProbe::restore_prefix, py::arg("token_ids"))
      .def("hold_prefix", &SchedulerProbe::hold_prefix, py::arg("token_ids"), py::arg("until"))
      .def("advance",
           [](SchedulerProbe& self, int64_t now) { self.scheduler().advance(now); })
      .def("commit", [](SchedulerProbe& self) { self.scheduler().commit(); })
      .def("check", [](SchedulerProbe& self) { self.scheduler().check(); })
      .def_property_readonly("num_running",
                             [](SchedulerProbe& self) { return self.scheduler().num_running(); })
      .def_property_readonly("num_waiting",
                             [](SchedulerProbe& self) { return self.scheduler().num_waiting(); })
      .def_property_readonly(
          "num_free", [](SchedulerProbe& self) { return self.scheduler().pool().num_free(); })
      .def_property_readonly(
          "num_reclaimable",
          [](SchedulerProbe& self) { return self.scheduler().pool().num_reclaimable(); })
      .def_property_readonly(
          "num_held", [](SchedulerProbe& self) { return self.scheduler().tree().num_held(); })
      .def_property_readonly(
          "num_preemptions",
          [](SchedulerProbe& self) { return self.scheduler().num_preemptions(); })
      .def_property_readonly("num_reused_tokens", [](SchedulerProbe& self) {
        return self.scheduler().num_reused_tokens();
      });
  testing.def("sample", &sample_row, py::arg("logits"), py::arg("sampling"),
              py::arg("mask") = std::nullopt, py::arg("listed_tokens") = std::vector<int32_t>(),
              py::arg("seen") = std::vector<std::pair<int32_t, int32_t>>(), py::arg("choice") = 0,
              py::arg("position") = 0,
              "(token_id, logprob, top) of one row of logits; `seen` is ascending pairs (token, "
              "times sampled).");
  testing.def(
      "page_hash",
      [](const std::array<int32_t, kPageSize>& tokens) {
        return PrefixTree::hash(PrefixTree::kRoot, tokens);
      },
      "The prefix tree's hash of the first page of a sequence.");
  testing.def("philox", &philox, py::arg("counter"), py::arg("key"));
}

}  // namespace f1
