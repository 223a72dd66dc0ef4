// The second half of a step: rows of logits, tokens drawn from them, and what becomes of sequences.
#include <algorithm>
#include <iterator>

#include "engine/engine.h"
#include "engine/token_mask.h"

namespace f1 {
namespace {

// Up to this many legal tokens their rows of the head are computed one by one; beyond, all rows.
constexpr size_t kMaxListedTokens = 16384;

}  // namespace

// One row for each pending sequence, and one for each of its drafts that the masks reach.
void Engine::fill_rows(const TokenMasks& masks) {
  const int num_words = (model_->config().vocab_size + 31) / 32;
  rows_.clear();
  legal_tokens_.clear();
  for (Pending& pending : pending_) {
    const auto found = masks.find(pending.sequence->id);
    const bool is_masked = found != masks.end();
    const int most = 1 + pending.num_drafts;
    const int num_rows = is_masked ? std::min(found->second.num_rows, most) : most;
    pending.row_begin = rows_.size();
    pending.num_rows = num_rows;
    for (int i = 0; i < num_rows; ++i) {
      const int32_t* mask = is_masked ? found->second.words + ptrdiff_t{i} * num_words : nullptr;
      rows_.push_back(make_row(pending, i, mask));
    }
  }
}

Engine::Row Engine::make_row(const Pending& pending, int index, const int32_t* mask) {
  const Sequence& sequence = *pending.sequence;
  Row row{.sequence = &sequence,
          .num_drafts = index,
          .head_index = pending.head_index + index,
          .mask = mask,
          .legal_begin = legal_tokens_.size()};
  if (mask != nullptr) {
    row.is_listed =
        list_legal_tokens(mask, model_->config().vocab_size, kMaxListedTokens, legal_tokens_);
    row.num_legal = legal_tokens_.size() - row.legal_begin;
    if (sequence.request.sampling.masked_mass && row.num_legal > 0) {  // wants all logits
      legal_tokens_.resize(row.legal_begin);
      row.is_listed = false;
      row.num_legal = 0;
    }
  }
  if (index > 0 && sequence.request.sampling.has_penalties()) {
    row.seen = index == 1 ? sequence.seen : rows_.back().seen;
    Sequence::count(row.seen, sequence.drafts[index - 1]);
  }
  return row;
}

std::span<const int32_t> Engine::listed_tokens(const Row& row) const {
  return std::span(legal_tokens_).subspan(row.legal_begin, row.num_legal);
}

// Logits of what is legal, row by row. Where one token is legal there is nothing to compute.
void Engine::compute_logits() {
  head_rows_.clear();
  for (Row& row : rows_) {
    if (row.is_listed && row.num_legal <= 1) continue;
    row.logits_row = static_cast<int>(head_rows_.size());
    head_rows_.push_back({row.head_index, listed_tokens(row)});
  }
  if (!head_rows_.empty()) model_->head(head_rows_, *activations_, *logits_);
}

void Engine::sample_rows() {
  sample_rows_.clear();
  for (const Row& row : rows_) {
    if (row.logits_row < 0) continue;
    const Sequence& sequence = *row.sequence;
    sample_rows_.push_back({.row = row.logits_row,
                            .num_logits = row.is_listed ? static_cast<int>(row.num_legal)
                                                        : model_->config().vocab_size,
                            .listed_tokens = listed_tokens(row),
                            .mask = row.is_listed ? nullptr : row.mask,
                            .params = &sequence.request.sampling,
                            .seen = row.num_drafts == 0 ? sequence.seen : row.seen,
                            .choice = sequence.request.choice,
                            .position = sequence.num_tokens() + row.num_drafts});
  }
  sampled_.assign(sample_rows_.size(), {});
  if (!sample_rows_.empty()) model_->backend().sample(*logits_, sample_rows_, sampled_);
}

// How likely the watched tokens were, in the rows that commit() comes to.
void Engine::read_watched(const Watches& watches) {
  watched_.clear();
  readings_.clear();
  if (watches.empty()) return;
  host_logits_.resize(static_cast<size_t>(model_->config().vocab_size));
  for (const Pending& pending : pending_) {
    const auto found = watches.find(pending.sequence->id);
    if (found == watches.end()) continue;
    const Watch& watch = found->second;
    for (size_t i = 0; i < pending.num_rows; ++i) {
      Row& row = rows_[pending.row_begin + i];
      const int32_t token_id = peek(row);
      if (token_id < 0) break;
      const bool wanted = watch.always || std::ranges::binary_search(watch.token_ids, token_id);
      if (wanted && !read_sampled(row, watch)) watched_.emplace_back(&row, &watch);
      if (i + 1 < pending.num_rows && token_id != pending.sequence->drafts[i]) break;
    }
  }
  const size_t most = std::min(logits_->max_rows(), activations_->max_tokens());
  for (size_t begin = 0; begin < watched_.size(); begin += most) {
    const size_t end = std::min(begin + most, watched_.size());
    head_rows_.clear();
    for (size_t i = begin; i < end; ++i) head_rows_.push_back({watched_[i].first->head_index, {}});
    model_->head(head_rows_, *activations_, *logits_);
    for (size_t i = begin; i < end; ++i) {
      logits_->read(static_cast<int>(i - begin), host_logits_);
      keep_reading(*watched_[i].first, *watched_[i].second);
    }
  }
}

// From the logits that it was sampled from, if those are all; what the mask hid of them is computed
// once more. That goes where row 0 was: rows are read in order, so it is no longer needed.
bool Engine::read_sampled(Row& row, const Watch& watch) {
  if (row.is_listed) return false;
  std::vector<int32_t> hidden;
  if (row.mask != nullptr) {
    const int vocab_size = model_->config().vocab_size;
    std::vector<int32_t> illegal(row.mask, row.mask + (vocab_size + 31) / 32);
    for (int32_t& word : illegal) word = ~word;
    if (!list_legal_tokens(illegal.data(), vocab_size, kMaxListedTokens, hidden)) return false;
  }
  logits_->read(row.logits_row, host_logits_);
  if (!hidden.empty()) {
    head_rows_.assign(1, {row.head_index, hidden});
    model_->head(head_rows_, *activations_, *logits_);
    std::vector<float> found(hidden.size());
    logits_->read(0, found);
    for (size_t i = 0; i < hidden.size(); ++i) host_logits_[hidden[i]] = found[i];
  }
  keep_reading(row, watch);
  return true;
}

void Engine::keep_reading(Row& row, const Watch& watch) {
  row.reading = static_cast<int>(readings_.size());
  readings_.push_back(sampler_.read(host_logits_, row.mask, peek(row), watch.token_ids));
}

// The sequence's next token, and the ones behind as long as what was sampled is what was drafted:
// only then was the next row computed from the sequence as it is.
void Engine::commit(const Pending& pending, std::vector<StepOutput>& outputs) {
  Sequence& sequence = *pending.sequence;
  num_drafted_tokens_ += pending.num_drafts;
  int num_right = 0;
  for (size_t i = 0; i < pending.num_rows; ++i) {
    outputs.push_back(commit_token(sequence, rows_[pending.row_begin + i]));
    if (outputs.back().finish != Finish::kNot) return scheduler_.finish(sequence);
    if (i + 1 == pending.num_rows || outputs.back().token.token_id != sequence.drafts[i]) break;
    ++num_right;
    ++num_accepted_tokens_;
  }
  sequence.drafts.clear();
  scheduler_.accept_drafts(sequence, num_right);
}

StepOutput Engine::commit_token(Sequence& sequence, const Row& row) {
  StepOutput output{.sequence_id = sequence.id,
                    .token = token_of(row),
                    .has_logprobs = sequence.request.sampling.num_logprobs >= 0,
                    .has_masked_mass = sequence.request.sampling.masked_mass,
                    .num_cached_tokens = sequence.num_cached_tokens,
                    .num_soft_steps = static_cast<int>(sequence.mixes.size())};
  if (row.reading >= 0) output.reading = std::move(readings_[row.reading]);
  const int32_t token_id = output.token.token_id;
  if (token_id < 0) {
    output.finish = row.logits_row < 0 ? Finish::kNoLegalToken : Finish::kFault;
    return output;
  }
  sequence.append(token_id);
  ++num_sampled_tokens_;
  if (std::ranges::count(sequence.request.stop_token_ids, token_id) > 0) {
    output.finish = Finish::kStop;
  } else if (sequence.num_left() == 0) {
    output.finish = Finish::kLength;
  }
  return output;
}

// The token that token_of() will take.
int32_t Engine::peek(const Row& row) const {
  if (row.logits_row < 0) return row.num_legal == 0 ? -1 : legal_tokens_[row.legal_begin];
  const int32_t token_id = sampled_[row.logits_row].token_id;
  const bool is_in_range = token_id >= 0 && token_id < model_->config().vocab_size;
  return is_in_range && (!row.mask || is_legal(row.mask, token_id)) ? token_id : -1;
}

// What was sampled, or the one token that is legal, or -1. Whatever came out of the logits, a token
// that is not legal never leaves.
SampledToken Engine::token_of(const Row& row) {
  const int32_t token_id = peek(row);
  if (token_id < 0) return {};
  if (row.logits_row >= 0) return std::move(sampled_[row.logits_row]);
  SampledToken forced;
  forced.token_id = token_id;
  const bool wants_top = row.sequence->request.sampling.num_logprobs > 0;
  if (wants_top) forced.top.emplace_back(forced.token_id, 0.0f);
  return forced;
}

}  // namespace f1
