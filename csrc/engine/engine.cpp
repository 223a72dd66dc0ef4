#include "engine/engine.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "engine/token_mask.h"

namespace f1 {
namespace {

// Up to this many legal tokens their rows of the head are computed one by one; beyond, all rows.
constexpr size_t kMaxListedTokens = 16384;

void check_tokens(std::span<const int32_t> token_ids, const char* name, int vocab_size) {
  for (int32_t id : token_ids) {
    if (id >= 0 && id < vocab_size) continue;
    throw InvalidArgument(
        concat(name, ": ", id, " is not in the vocabulary of ", vocab_size, " tokens"));
  }
}

void check_request(const Request& request, const ModelConfig& config) {
  if (request.token_ids.empty()) throw InvalidArgument("token_ids must not be empty");
  check_tokens(request.token_ids, "token_ids", config.vocab_size);
  check_tokens(request.stop_token_ids, "stop_token_ids", config.vocab_size);
  if (request.max_tokens < 1) {
    throw InvalidArgument(concat("max_tokens must be positive, got ", request.max_tokens));
  }
  const int64_t num_tokens = int64_t{request.max_tokens} + std::ssize(request.token_ids);
  if (num_tokens > config.max_positions) {
    throw InvalidArgument(concat("prompt and max_tokens make ", num_tokens,
                                 " tokens; the model's context has ", config.max_positions));
  }
  check_sampling(request.sampling, config.vocab_size);
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : model_(std::move(model)),
      scheduler_(options),
      cache_(model_->make_kv_cache(options.num_pages)),
      activations_(model_->make_activations(options.max_batch_tokens)),
      logits_(model_->make_logits(options.max_sequences)) {}

int64_t Engine::submit(Request request) {
  check_request(request, model_->config());
  scheduler_.submit(std::make_unique<Sequence>(next_id_, std::move(request)));
  return next_id_++;
}

void Engine::append(int64_t id, std::span<const int32_t> token_ids) {
  Sequence* sequence = scheduler_.find(id);
  if (sequence == nullptr) throw InvalidArgument(concat("no sequence ", id));
  check_tokens(token_ids, "token_ids", model_->config().vocab_size);
  if (std::ranges::find(pending_, sequence, &Pending::sequence) != pending_.end()) {
    throw InvalidArgument(concat("sequence ", id, " waits for its token"));
  }
  const int64_t left = sequence->request.max_tokens - sequence->num_sampled();
  if (std::ssize(token_ids) >= left) {
    throw InvalidArgument(concat(token_ids.size(), " more tokens for sequence ", id,
                                 " leave none to sample: max_tokens allows ", left));
  }
  for (int32_t token_id : token_ids) sequence->append(token_id);
  num_appended_tokens_ += std::ssize(token_ids);
}

void Engine::abort(int64_t id) {
  Sequence* sequence = scheduler_.find(id);
  if (sequence == nullptr) return;
  std::erase_if(pending_, [&](const Pending& pending) { return pending.sequence == sequence; });
  scheduler_.finish(*sequence);
}

std::vector<int64_t> Engine::begin_step() {
  if (!pending_.empty()) throw InvalidArgument("begin_step() again before finish_step()");
  const std::vector<Chunk>& chunks = scheduler_.schedule();
  if (chunks.empty()) return {};
  try {
    fill_batch(chunks);
    model_->forward(batch_, *cache_, *activations_);
  } catch (...) {
    pending_.clear();  // nothing was computed; the next step tries again
    throw;
  }
  scheduler_.commit();
  ++num_steps_;
  num_computed_tokens_ += batch_.num_tokens();

  std::vector<int64_t> sequence_ids;
  for (const Pending& pending : pending_) sequence_ids.push_back(pending.sequence->id);
  return sequence_ids;
}

std::vector<StepOutput> Engine::finish_step(const TokenMasks& masks) {
  list_legal_tokens(masks);
  compute_logits();
  sample_rows();
  std::vector<StepOutput> outputs;
  outputs.reserve(pending_.size());
  for (const Pending& pending : pending_) outputs.push_back(commit_token(pending));
  pending_.clear();
  return outputs;
}

std::pair<int, Engine::PageData> Engine::save_prefix(std::span<const int32_t> token_ids) {
  if (!pending_.empty()) throw InvalidArgument("save_prefix() between begin_step and finish_step");
  const std::vector<int32_t> page_ids = scheduler_.find_prefix(token_ids);
  const size_t page_bytes = model_->kv_page_bytes();
  auto data = std::make_unique_for_overwrite<std::byte[]>(page_ids.size() * page_bytes);
  for (size_t i = 0; i < page_ids.size(); ++i) {
    cache_->read_page(page_ids[i], {data.get() + i * page_bytes, page_bytes});
  }
  return {static_cast<int>(page_ids.size()), std::move(data)};
}

int Engine::restore_prefix(std::span<const int32_t> token_ids, const ReadPage& read_page) {
  if (!pending_.empty()) {
    throw InvalidArgument("restore_prefix() between begin_step and finish_step");
  }
  std::vector<std::byte> page(model_->kv_page_bytes());
  return scheduler_.restore_prefix(token_ids, [&](int index, int32_t page_id) {
    read_page(index, page);
    cache_->write_page(page_id, page);
  });
}

// Flattens the chunks; the sequences that reach their last token become pending.
void Engine::fill_batch(const std::vector<Chunk>& chunks) {
  batch_.token_ids.clear();
  batch_.positions.clear();
  batch_.sequence_of.clear();
  batch_.page_ids.clear();
  batch_.page_begin.assign(1, 0);
  batch_.head_tokens.clear();
  for (const auto& [sequence, num_tokens] : chunks) {
    const int index = batch_.num_sequences();
    for (int i = 0; i < num_tokens; ++i) {
      const int position = sequence->num_computed + i;
      batch_.token_ids.push_back(sequence->token_ids[position]);
      batch_.positions.push_back(position);
      batch_.sequence_of.push_back(index);
    }
    batch_.page_ids.insert(batch_.page_ids.end(), sequence->page_ids.begin(),
                           sequence->page_ids.end());
    batch_.page_begin.push_back(static_cast<int32_t>(batch_.page_ids.size()));
    if (num_tokens < sequence->num_to_compute()) continue;
    pending_.push_back(
        {.sequence = sequence, .head_index = static_cast<int>(batch_.head_tokens.size())});
    batch_.head_tokens.push_back(batch_.num_tokens() - 1);
  }
}

void Engine::list_legal_tokens(const TokenMasks& masks) {
  legal_tokens_.clear();
  for (Pending& pending : pending_) {
    const auto found = masks.find(pending.sequence->id);
    pending.mask = found == masks.end() ? nullptr : found->second;
    pending.is_listed = false;
    pending.legal_begin = legal_tokens_.size();
    pending.num_legal = 0;
    if (pending.mask == nullptr) continue;
    pending.is_listed = f1::list_legal_tokens(pending.mask, model_->config().vocab_size,
                                              kMaxListedTokens, legal_tokens_);
    pending.num_legal = legal_tokens_.size() - pending.legal_begin;
  }
}

std::span<const int32_t> Engine::listed_tokens(const Pending& pending) const {
  return std::span(legal_tokens_).subspan(pending.legal_begin, pending.num_legal);
}

// Logits of what is legal, row by row. Where one token is legal there is nothing to compute.
void Engine::compute_logits() {
  head_rows_.clear();
  for (Pending& pending : pending_) {
    pending.row = -1;
    if (pending.is_listed && pending.num_legal <= 1) continue;
    pending.row = static_cast<int>(head_rows_.size());
    head_rows_.push_back({pending.head_index, listed_tokens(pending)});
  }
  if (!head_rows_.empty()) model_->head(head_rows_, *activations_, *logits_);
}

void Engine::sample_rows() {
  sample_rows_.clear();
  for (const Pending& pending : pending_) {
    if (pending.row < 0) continue;
    const Sequence& sequence = *pending.sequence;
    sample_rows_.push_back({.row = pending.row,
                            .num_logits = pending.is_listed ? static_cast<int>(pending.num_legal)
                                                            : model_->config().vocab_size,
                            .listed_tokens = listed_tokens(pending),
                            .mask = pending.is_listed ? nullptr : pending.mask,
                            .params = &sequence.request.sampling,
                            .seen = sequence.seen,
                            .choice = sequence.request.choice,
                            .position = sequence.num_tokens()});
  }
  sampled_.assign(sample_rows_.size(), {});
  if (!sample_rows_.empty()) model_->backend().sample(*logits_, sample_rows_, sampled_);
}

StepOutput Engine::commit_token(const Pending& pending) {
  Sequence& sequence = *pending.sequence;
  StepOutput output{.sequence_id = sequence.id,
                    .token = token_of(pending),
                    .has_logprobs = sequence.request.sampling.num_logprobs >= 0,
                    .num_cached_tokens = sequence.num_cached_tokens};
  const int32_t token_id = output.token.token_id;
  if (token_id < 0) {
    output.finish = pending.row < 0 ? Finish::kNoLegalToken : Finish::kFault;
  } else {
    sequence.append(token_id);
    ++num_sampled_tokens_;
    if (std::ranges::count(sequence.request.stop_token_ids, token_id) > 0) {
      output.finish = Finish::kStop;
    } else if (sequence.num_sampled() == sequence.request.max_tokens) {
      output.finish = Finish::kLength;
    }
  }
  if (output.finish != Finish::kNot) scheduler_.finish(sequence);
  return output;
}

// What was sampled, or the one token that is legal, or -1. Whatever came out of the logits, a token
// that is not legal never leaves.
SampledToken Engine::token_of(const Pending& pending) {
  if (pending.row >= 0) {
    SampledToken& token = sampled_[pending.row];
    const bool is_in_range = token.token_id >= 0 && token.token_id < model_->config().vocab_size;
    if (!is_in_range || (pending.mask && !is_legal(pending.mask, token.token_id))) return {};
    return std::move(token);
  }
  SampledToken forced;
  if (pending.num_legal == 0) return forced;
  forced.token_id = legal_tokens_[pending.legal_begin];
  const bool wants_top = pending.sequence->request.sampling.num_logprobs > 0;
  if (wants_top) forced.top.emplace_back(forced.token_id, 0.0f);
  return forced;
}

EngineStats Engine::stats() const {
  const PagePool& pool = scheduler_.pool();
  return {.num_running = scheduler_.num_running(),
          .num_waiting = scheduler_.num_waiting(),
          .num_free_pages = pool.num_free(),
          .num_cached_pages = scheduler_.tree().num_pages(),
          .num_reclaimable_pages = pool.num_reclaimable(),
          .num_steps = num_steps_,
          .num_computed_tokens = num_computed_tokens_,
          .num_sampled_tokens = num_sampled_tokens_,
          .num_appended_tokens = num_appended_tokens_,
          .num_reused_tokens = scheduler_.num_reused_tokens(),
          .num_preemptions = scheduler_.num_preemptions()};
}

void Engine::check() const {
  scheduler_.check();
  for (const Pending& pending : pending_) {
    F1_CHECK(scheduler_.find(pending.sequence->id) == pending.sequence);
    F1_CHECK(pending.sequence->num_to_compute() == 0, "sequence ", pending.sequence->id);
  }
}

}  // namespace f1
