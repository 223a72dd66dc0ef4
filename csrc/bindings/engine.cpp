// Python's view of the engine: SamplingParams, Request, StepOutput, Engine.
#include "engine/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "bindings/bindings.h"
#include "core/checksum.h"
#include "core/error.h"
#include "core/file_reader.h"

namespace f1 {
namespace {

namespace py = pybind11;

// No conversion: a mask is read where it lies, and a float array of token ids is a mistake.
using Int32Array = py::array_t<int32_t, py::array::c_style>;
using Checksums = py::array_t<uint64_t, py::array::c_style>;
using Masks = std::unordered_map<int64_t, std::optional<Int32Array>>;
using Watched = std::unordered_map<int64_t, std::pair<Int32Array, bool>>;

std::span<const int32_t> span_of(const Int32Array& token_ids) {
  if (token_ids.ndim() != 1) throw InvalidArgument("token_ids must have one dimension");
  return {token_ids.data(), static_cast<size_t>(token_ids.size())};
}

SamplingParams make_sampling(float temperature, int top_k, float top_p, float min_p,
                             float repetition_penalty, float presence_penalty,
                             float frequency_penalty, uint64_t seed,
                             const std::map<int32_t, float>& logit_bias, int num_logprobs,
                             bool masked_mass) {
  return {.temperature = temperature,
          .top_k = top_k,
          .top_p = top_p,
          .min_p = min_p,
          .repetition_penalty = repetition_penalty,
          .presence_penalty = presence_penalty,
          .frequency_penalty = frequency_penalty,
          .seed = seed,
          .logit_bias = {logit_bias.begin(), logit_bias.end()},
          .num_logprobs = num_logprobs,
          .masked_mass = masked_mass};
}

Request make_request(const Int32Array& token_ids, SamplingParams sampling, int max_tokens,
                     std::vector<int32_t> stop_token_ids, int choice, const SoftParams& soft) {
  const std::span<const int32_t> ids = span_of(token_ids);
  return {.token_ids = {ids.begin(), ids.end()},
          .sampling = std::move(sampling),
          .max_tokens = max_tokens,
          .stop_token_ids = std::move(stop_token_ids),
          .choice = choice,
          .soft = soft};
}

SoftParams make_soft(int num_steps, int position, int top_k, float temperature, float noise,
                     float cold_entropy, int cold_steps) {
  return {.num_steps = num_steps,
          .position = position,
          .top_k = top_k,
          .temperature = temperature,
          .noise = noise,
          .cold_entropy = cold_entropy,
          .cold_steps = cold_steps};
}

const char* finish_name(Finish finish) {
  switch (finish) {
    case Finish::kNot:
      return nullptr;
    case Finish::kStop:
      return "stop";
    case Finish::kLength:
      return "length";
    case Finish::kNoLegalToken:
      return "no_legal_token";
    case Finish::kFault:
      return "fault";
  }
  return nullptr;
}

// An engine that threads may share: calls wait for each other, outside the interpreter's lock.
class SharedEngine {
 public:
  SharedEngine(std::shared_ptr<const Model> model, const EngineOptions& options)
      : engine_(std::move(model), options) {}

  template <typename Call>
  auto operator()(Call call) {
    py::gil_scoped_release release;
    std::lock_guard lock(mutex_);
    return call(engine_);
  }

  std::vector<StepOutput> finish_step(const Masks& masks, const Watched& watched) {
    const py::ssize_t num_words = (engine_.model().config().vocab_size + 31) / 32;
    TokenMasks pointers;
    for (const auto& [id, mask] : masks) {
      if (!mask) continue;
      const py::ssize_t num_dims = mask->ndim(), num_rows = num_dims == 2 ? mask->shape(0) : 1;
      if (num_dims < 1 || num_dims > 2 || num_rows < 1 || mask->shape(num_dims - 1) != num_words) {
        throw InvalidArgument(concat("the mask of sequence ", id, " must be int32 [", num_words,
                                     "] or rows of that, has ", mask->size(), " words"));
      }
      pointers.emplace(id, MaskRows{mask->data(), static_cast<int>(num_rows)});
    }
    Watches watches;
    for (const auto& [id, watch] : watched) {
      watches.emplace(id, Watch{span_of(watch.first), watch.second});
    }
    return (*this)([&](Engine& engine) { return engine.finish_step(pointers, watches); });
  }

  // (data uint8 [pages, page bytes], checksums uint64 [pages])
  py::tuple save_prefix(const Int32Array& token_ids) {
    const size_t page_bytes = engine_.model().kv_page_bytes();
    std::vector<uint64_t> checksums;
    auto [num_pages, data] = (*this)([&, ids = span_of(token_ids)](Engine& engine) {
      auto saved = engine.save_prefix(ids);
      for (int i = 0; i < saved.first; ++i) {
        checksums.push_back(checksum({saved.second.get() + i * page_bytes, page_bytes}));
      }
      return saved;
    });
    const py::capsule owner(data.get(), [](void* p) { delete[] static_cast<std::byte*>(p); });
    auto* bytes = reinterpret_cast<uint8_t*>(data.release());
    return py::make_tuple(py::array_t<uint8_t>({size_t(num_pages), page_bytes}, bytes, owner),
                          Checksums(checksums.size(), checksums.data()));
  }

  int restore_prefix(const Int32Array& token_ids, const std::string& path, uint64_t offset,
                     const Checksums& checksums) {
    if (checksums.size() * kPageSize != token_ids.size()) {
      throw InvalidArgument(concat(checksums.size(), " checksums for ", token_ids.size(),
                                   " tokens: expected one a page of ", kPageSize));
    }
    return (*this)([&, ids = span_of(token_ids)](Engine& engine) {
      std::optional<FileReader> file;  // opened where the cache lacks a page
      return engine.restore_prefix(ids, [&](int index, std::span<std::byte> out) {
        if (!file) file.emplace(path);
        file->read(offset + index * out.size(), out);
        if (checksum(out) == checksums.data()[index]) return;
        throw InvalidArgument(concat(path, ": page ", index, " does not match its checksum"));
      });
    });
  }

 private:
  std::mutex mutex_;
  Engine engine_;
};

py::dict stats_dict(const EngineStats& stats) {
  using namespace py::literals;
  return py::dict(
      "num_running"_a = stats.num_running, "num_waiting"_a = stats.num_waiting,
      "num_free_pages"_a = stats.num_free_pages, "num_cached_pages"_a = stats.num_cached_pages,
      "num_reclaimable_pages"_a = stats.num_reclaimable_pages,
      "num_held_pages"_a = stats.num_held_pages, "num_steps"_a = stats.num_steps,
      "num_computed_tokens"_a = stats.num_computed_tokens,
      "num_sampled_tokens"_a = stats.num_sampled_tokens,
      "num_appended_tokens"_a = stats.num_appended_tokens,
      "num_drafted_tokens"_a = stats.num_drafted_tokens,
      "num_accepted_tokens"_a = stats.num_accepted_tokens,
      "num_reused_tokens"_a = stats.num_reused_tokens, "num_preemptions"_a = stats.num_preemptions,
      "num_soft_steps"_a = stats.num_soft_steps);
}

void bind_requests(py::module_& module) {
  py::class_<SamplingParams>(module, "SamplingParams")
      .def(py::init(&make_sampling), py::kw_only(), py::arg("temperature") = 0.0f,
           py::arg("top_k") = 0, py::arg("top_p") = 1.0f, py::arg("min_p") = 0.0f,
           py::arg("repetition_penalty") = 1.0f, py::arg("presence_penalty") = 0.0f,
           py::arg("frequency_penalty") = 0.0f, py::arg("seed") = 0,
           py::arg("logit_bias") = std::map<int32_t, float>(), py::arg("num_logprobs") = -1,
           py::arg("masked_mass") = false,
           "How tokens are drawn; see f1.types.SamplingParams. num_logprobs: -1 none, 0 of the "
           "sampled token, n of the n likeliest too.");
  py::class_<SoftParams>(module, "SoftParams")
      .def(py::init(&make_soft), py::kw_only(), py::arg("num_steps"), py::arg("position"),
           py::arg("top_k") = 8, py::arg("temperature") = 1.0f, py::arg("noise") = 0.0f,
           py::arg("cold_entropy") = 0.0f, py::arg("cold_steps") = 0,
           "Steps that sample nothing, behind the first `position` tokens of a request; see "
           "f1.types.Soft.");
  py::class_<Request>(module, "Request")
      .def(py::init(&make_request), py::arg("token_ids"), py::arg("sampling") = SamplingParams(),
           py::arg("max_tokens"), py::arg("stop_token_ids") = std::vector<int32_t>(),
           py::arg("choice") = 0, py::arg("soft") = SoftParams(),
           "token_ids: int32 [T]. `choice` tells the n decodings of one prompt and seed apart.");
  py::class_<StepOutput>(module, "StepOutput")
      .def_readonly("sequence_id", &StepOutput::sequence_id)
      .def_property_readonly(
          "token_id", [](const StepOutput& o) { return o.token.token_id; },
          "-1 where there is no token: finish says why.")
      .def_property_readonly(
          "logprob",
          [](const StepOutput& o) -> std::optional<float> {
            if (!o.has_logprobs) return std::nullopt;
            return o.token.logprob;
          },
          "Natural logarithm, among the legal tokens; None where not asked for.")
      .def_property_readonly(
          "top",
          [](const StepOutput& o) -> std::optional<std::vector<std::pair<int32_t, float>>> {
            if (!o.has_logprobs) return std::nullopt;
            return o.token.top;
          },
          "The likeliest legal tokens: [(token_id, logprob)]; None where not asked for.")
      .def_property_readonly(
          "masked_mass",
          [](const StepOutput& o) -> std::optional<float> {
            if (!o.has_masked_mass) return std::nullopt;
            return o.token.masked_mass;
          },
          "How likely all tokens that were not legal were together; None where not asked for.")
      .def_property_readonly(
          "finish", [](const StepOutput& o) { return finish_name(o.finish); },
          "None, or why the sequence has ended: 'stop', 'length', "
          "'no_legal_token', 'fault' (logits that are not numbers).")
      .def_readonly("num_cached_tokens", &StepOutput::num_cached_tokens,
                    "Tokens of the prompt that an earlier request had computed.")
      .def_readonly("num_soft_steps", &StepOutput::num_soft_steps,
                    "Taken before the first token; they count against max_tokens.")
      .def_property_readonly(
          "reading",
          [](const StepOutput& o) -> py::object {
            if (!o.reading) return py::none();
            const std::vector<float>& watched = o.reading->watched;
            return py::make_tuple(o.reading->logprob,
                                  py::array_t<float>(watched.size(), watched.data()),
                                  o.reading->masked_mass);
          },
          "Of a sequence that is watched: (the token's log-probability, float32 [N] those of the "
          "tokens watched for, how likely all tokens that were not legal were together), among the "
          "legal ones; -inf: not legal. None where there is nothing to tell.");
}

}  // namespace

void bind_engine(py::module_& module) {
  bind_requests(module);
  py::class_<SharedEngine>(module, "Engine",
                           "Decodes many requests at once; usable from any thread.")
      .def(py::init([](std::shared_ptr<Model> model, int num_pages, int max_batch_tokens,
                       int max_sequences, bool prefix_reuse, int max_draft_tokens) {
             const EngineOptions options{num_pages, max_batch_tokens, max_sequences, prefix_reuse,
                                         max_draft_tokens};
             return std::make_unique<SharedEngine>(std::move(model), options);
           }),
           py::arg("model").none(false), py::arg("num_pages"), py::arg("max_batch_tokens") = 256,
           py::arg("max_sequences") = 32, py::arg("prefix_reuse") = true,
           py::arg("max_draft_tokens") = 8)
      .def(
          "submit",
          [](SharedEngine& self, const Request& request) {
            return self([&](Engine& engine) { return engine.submit(request); });
          },
          py::arg("request"),
          "The sequence's id. Raises InvalidArgument, also where it could never fit the context or "
          "the cache.")
      .def(
          "fork",
          [](SharedEngine& self, int64_t id, int choice) {
            return self([&](Engine& engine) { return engine.fork(id, choice); });
          },
          py::arg("sequence_id"), py::arg("choice"),
          "The sequence once more, from where it stands, as that choice: its id. None where it "
          "could not run beside (others wait, memory or places are short): then submit it.")
      .def(
          "append",
          [](SharedEngine& self, int64_t id, const std::vector<int32_t>& token_ids) {
            self([&](Engine& engine) { engine.append(id, token_ids); });
          },
          py::arg("sequence_id"), py::arg("token_ids"),
          "Tokens that follow without being sampled; the next step computes them. They count "
          "against max_tokens, of which one must remain.")
      .def(
          "draft",
          [](SharedEngine& self, int64_t id, const std::vector<int32_t>& token_ids) {
            self([&](Engine& engine) { engine.draft(id, token_ids); });
          },
          py::arg("sequence_id"), py::arg("token_ids"),
          "Guesses of what is sampled next, tried in one go in the next step that samples. What "
          "is sampled does not depend on them.")
      .def(
          "pause",
          [](SharedEngine& self, int64_t id) { self([&](Engine& engine) { engine.pause(id); }); },
          py::arg("sequence_id"),
          "Do not sample it until resume(): all of it is computed but its last token. Changes no "
          "token.")
      .def(
          "resume",
          [](SharedEngine& self, int64_t id) { self([&](Engine& engine) { engine.resume(id); }); },
          py::arg("sequence_id"))
      .def(
          "abort",
          [](SharedEngine& self, int64_t id) { self([&](Engine& engine) { engine.abort(id); }); },
          py::arg("sequence_id"), "End it early; of no effect where it has ended.")
      .def(
          "begin_step",
          [](SharedEngine& self) {
            return self([](Engine& engine) { return engine.begin_step(); });
          },
          "Run the layers over the next batch; the ids that now wait for their token.")
      .def(
          "finish_step", &SharedEngine::finish_step, py::arg("masks") = Masks(),
          py::arg("watches") = Watched(),
          "Sample for those ids; more than one token where drafts were right. masks: id -> int32 "
          "[ceil(V / 32)], bit set = legal, or None; with drafts rows of that, the next one behind "
          "each draft. Drafts without a row are not tried. watches: id -> (int32 [N] tokens, "
          "ascending, and whether every step is told of or only one that samples such a token).")
      .def("save_prefix", &SharedEngine::save_prefix, py::arg("token_ids"),
           "What the cache holds of a prefix's whole pages of 16 tokens: uint8 [pages, page bytes] "
           "and their checksums, uint64 [pages]. Not between begin_step() and finish_step().")
      .def("restore_prefix", &SharedEngine::restore_prefix, py::arg("token_ids"), py::arg("path"),
           py::arg("offset"), py::arg("checksums"),
           "Read the pages that the cache lacks from a file that has them one after another. How "
           "many of the prefix it now has: fewer where memory is short. Raises InvalidArgument at "
           "a page that cannot be read or does not match its checksum; those before it stay.")
      .def(
          "hold_prefix",
          [](SharedEngine& self, const Int32Array& token_ids, double seconds) {
            self([&, ids = span_of(token_ids)](Engine& engine) {
              engine.hold_prefix(ids, seconds);
            });
          },
          py::arg("token_ids"), py::arg("seconds"),
          "For so long what the cache has of these tokens, from a sequence's start, is given up "
          "last: half the cache at most.")
      .def_property_readonly(
          "has_work",
          [](SharedEngine& self) { return self([](Engine& engine) { return engine.has_work(); }); })
      .def_property_readonly(
          "capacity",
          [](SharedEngine& self) { return self([](Engine& engine) { return engine.capacity(); }); },
          "Tokens that the cache has room for.")
      .def("stats",
           [](SharedEngine& self) {
             return stats_dict(self([](Engine& engine) { return engine.stats(); }));
           })
      .def(
          "check", [](SharedEngine& self) { self([](Engine& engine) { engine.check(); }); },
          "Raise InternalError where an invariant of the books is broken.");
}

}  // namespace f1
