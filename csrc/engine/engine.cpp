#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "core/error.h"

namespace f1 {
namespace {

constexpr double kMaxHoldSeconds = 1e6;

int64_t now() {  // in milliseconds
  const auto passed = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(passed).count();
}

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
  if (request.soft.num_steps != 0) {
    check_soft(request.soft, static_cast<int>(request.token_ids.size()), config.vocab_size);
  }
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : model_(std::move(model)),
      scheduler_(options),
      cache_(model_->make_kv_cache(options.num_pages)),
      activations_(model_->make_activations(options.max_batch_tokens)),
      logits_(model_->make_logits(options.max_sequences + options.max_draft_tokens)) {}

int64_t Engine::submit(Request request) {
  check_request(request, model_->config());
  scheduler_.submit(std::make_unique<Sequence>(next_id_, std::move(request)));
  return next_id_++;
}

std::optional<int64_t> Engine::fork(int64_t id, int choice) {
  const Sequence* parent = scheduler_.find(id);
  if (parent == nullptr) throw InvalidArgument(concat("no sequence ", id));
  if (parent->request.soft.noise > 0 && !parent->mixes.empty()) return std::nullopt;
  const auto pending = std::ranges::find(pending_, parent, &Pending::sequence);
  int num_rows = 0;  // of the head, which takes as many at a time as a step has tokens
  for (const Pending& other : pending_) num_rows += 1 + other.num_drafts;
  if (pending != pending_.end() && num_rows >= activations_->max_tokens()) return std::nullopt;
  const auto copy = [&](int32_t from, int32_t to) { cache_->copy_page(from, to); };
  Sequence* child = scheduler_.fork(*parent, next_id_, choice, copy);
  if (child == nullptr) return std::nullopt;
  if (pending != pending_.end()) {
    pending_.push_back({.sequence = child, .head_index = pending->head_index});
  }
  return next_id_++;
}

void Engine::append(int64_t id, std::span<const int32_t> token_ids) {
  Sequence& sequence = find_idle(id);
  check_tokens(token_ids, "token_ids", model_->config().vocab_size);
  if (sequence.is_thinking) throw InvalidArgument(concat("sequence ", id, " takes soft steps"));
  if (std::ssize(token_ids) >= sequence.num_left()) {
    throw InvalidArgument(concat(token_ids.size(), " more tokens for sequence ", id,
                                 " leave none to sample: max_tokens allows ", sequence.num_left()));
  }
  for (int32_t token_id : token_ids) sequence.append(token_id);
  if (!token_ids.empty()) sequence.drafts.clear();
  num_appended_tokens_ += std::ssize(token_ids);
}

void Engine::draft(int64_t id, std::span<const int32_t> token_ids) {
  Sequence& sequence = find_idle(id);
  check_tokens(token_ids, "token_ids", model_->config().vocab_size);
  sequence.drafts.assign(token_ids.begin(), token_ids.end());
}

void Engine::abort(int64_t id) {
  Sequence* sequence = scheduler_.find(id);
  if (sequence == nullptr) return;
  std::erase_if(pending_, [&](const Pending& pending) { return pending.sequence == sequence; });
  scheduler_.finish(*sequence);
}

std::vector<int64_t> Engine::begin_step() {
  if (!pending_.empty()) throw InvalidArgument("begin_step() again before finish_step()");
  scheduler_.advance(now());
  const std::vector<Chunk>& chunks = scheduler_.schedule();
  if (chunks.empty()) return {};
  try {
    fill_batch(chunks);
    model_->forward(batch_, *cache_, *activations_);
    think();
  } catch (...) {
    pending_.clear();  // nothing was computed; the next step tries again
    throw;
  }
  scheduler_.commit();
  ++num_steps_;
  num_computed_tokens_ += batch_.num_tokens();
  if (!thoughts_.empty()) commit_thoughts();

  std::vector<int64_t> sequence_ids;
  for (const Pending& pending : pending_) sequence_ids.push_back(pending.sequence->id);
  return sequence_ids;
}

std::vector<StepOutput> Engine::finish_step(const TokenMasks& masks, const Watches& watches) {
  for (const auto& [id, watch] : watches) {
    check_tokens(watch.token_ids, "watched", model_->config().vocab_size);
  }
  fill_rows(masks);
  compute_logits();
  sample_rows();
  read_watched(watches);
  std::vector<StepOutput> outputs;
  outputs.reserve(rows_.size());
  for (const Pending& pending : pending_) commit(pending, outputs);
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

void Engine::hold_prefix(std::span<const int32_t> token_ids, double seconds) {
  if (!(seconds >= 0 && seconds <= kMaxHoldSeconds)) {
    throw InvalidArgument(concat("seconds must be in 0..", kMaxHoldSeconds, ", got ", seconds));
  }
  scheduler_.hold_prefix(token_ids, now() + static_cast<int64_t>(seconds * 1000));
}

Sequence& Engine::find_idle(int64_t id) const {
  Sequence* sequence = scheduler_.find(id);
  if (sequence == nullptr) throw InvalidArgument(concat("no sequence ", id));
  if (std::ranges::find(pending_, sequence, &Pending::sequence) != pending_.end()) {
    throw InvalidArgument(concat("sequence ", id, " waits for its token"));
  }
  return *sequence;
}

// Flattens the chunks; the sequences that reach their last token become pending.
void Engine::fill_batch(const std::vector<Chunk>& chunks) {
  batch_.token_ids.clear();
  batch_.positions.clear();
  batch_.sequence_of.clear();
  batch_.page_ids.clear();
  batch_.page_begin.assign(1, 0);
  batch_.head_tokens.clear();
  batch_.mixed_tokens.clear();
  batch_.mix_begin.assign(1, 0);
  batch_.mix_ids.clear();
  batch_.mix_weights.clear();
  const auto push_mix = [&](const Mix& mix) {
    batch_.mixed_tokens.push_back(batch_.num_tokens());
    batch_.mix_ids.insert(batch_.mix_ids.end(), mix.token_ids.begin(), mix.token_ids.end());
    batch_.mix_weights.insert(batch_.mix_weights.end(), mix.weights.begin(), mix.weights.end());
    batch_.mix_begin.push_back(static_cast<int32_t>(batch_.mix_ids.size()));
  };
  for (const auto& [sequence, num_tokens, num_drafts] : chunks) {
    const int index = batch_.num_sequences();
    const auto push = [&](int32_t token_id, int position) {
      batch_.token_ids.push_back(token_id);
      batch_.positions.push_back(position);
      batch_.sequence_of.push_back(index);
    };
    const int end = sequence->num_computed + num_tokens;
    for (int i = sequence->num_computed; i < end; ++i) {
      if (const Mix* mix = sequence->mix_at(i)) push_mix(*mix);
      push(sequence->token_ids[i], i);
    }
    for (int i = 0; i < num_drafts; ++i) push(sequence->drafts[i], end + i);
    batch_.page_ids.insert(batch_.page_ids.end(), sequence->page_ids.begin(),
                           sequence->page_ids.end());
    batch_.page_begin.push_back(static_cast<int32_t>(batch_.page_ids.size()));
    if (end < sequence->num_tokens()) continue;
    pending_.push_back({.sequence = sequence,
                        .head_index = static_cast<int>(batch_.head_tokens.size()),
                        .num_drafts = num_drafts});
    for (int i = num_drafts; i >= 0; --i) batch_.head_tokens.push_back(batch_.num_tokens() - 1 - i);
  }
}

// What the soft steps that are due make of all logits: they know no mask.
void Engine::think() {
  thoughts_.clear();
  head_rows_.clear();
  for (const Pending& pending : pending_) {
    if (pending.sequence->is_thinking) head_rows_.push_back({pending.head_index, {}});
  }
  if (head_rows_.empty()) return;
  model_->head(head_rows_, *activations_, *logits_);
  host_logits_.resize(static_cast<size_t>(model_->config().vocab_size));
  int row = 0;
  for (const Pending& pending : pending_) {
    const Sequence& sequence = *pending.sequence;
    if (!sequence.is_thinking) continue;
    logits_->read(row++, host_logits_);
    const Request& request = sequence.request;
    thoughts_.push_back(sampler_.mix(host_logits_, request.soft, request.sampling.seed,
                                     request.choice, sequence.num_tokens()));
  }
}

// A sequence waits for its token where its thoughts have ended and nothing stands behind them.
void Engine::commit_thoughts() {
  auto thought = thoughts_.begin();
  for (const Pending& pending : pending_) {
    Sequence& sequence = *pending.sequence;
    if (!sequence.is_thinking) continue;
    auto& [mix, entropy] = *thought++;
    const SoftParams& soft = sequence.request.soft;
    sequence.num_cold = entropy < soft.cold_entropy ? sequence.num_cold + 1 : 0;
    const bool is_cold = soft.cold_steps > 0 && sequence.num_cold >= soft.cold_steps;
    if (is_cold || mix.token_ids.empty()) {
      sequence.end_thinking();
    } else {
      sequence.think(std::move(mix));
      ++num_soft_steps_;
    }
  }
  std::erase_if(pending_, [](const Pending& p) { return p.sequence->num_to_compute() > 0; });
}

EngineStats Engine::stats() const {
  const PagePool& pool = scheduler_.pool();
  return {.num_running = scheduler_.num_running(),
          .num_waiting = scheduler_.num_waiting(),
          .num_free_pages = pool.num_free(),
          .num_cached_pages = scheduler_.tree().num_pages(),
          .num_reclaimable_pages = pool.num_reclaimable(),
          .num_held_pages = scheduler_.tree().num_held(),
          .num_steps = num_steps_,
          .num_computed_tokens = num_computed_tokens_,
          .num_sampled_tokens = num_sampled_tokens_,
          .num_appended_tokens = num_appended_tokens_,
          .num_drafted_tokens = num_drafted_tokens_,
          .num_accepted_tokens = num_accepted_tokens_,
          .num_reused_tokens = scheduler_.num_reused_tokens(),
          .num_preemptions = scheduler_.num_preemptions(),
          .num_soft_steps = num_soft_steps_};
}

void Engine::check() const {
  scheduler_.check();
  for (const Pending& pending : pending_) {
    F1_CHECK(scheduler_.find(pending.sequence->id) == pending.sequence);
    F1_CHECK(pending.sequence->num_to_compute() == 0, "sequence ", pending.sequence->id);
    F1_CHECK(!pending.sequence->is_paused, "sequence ", pending.sequence->id);
    F1_CHECK(!pending.sequence->is_thinking, "sequence ", pending.sequence->id);
  }
}

}  // namespace f1
