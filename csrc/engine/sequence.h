// A request, and the same while it runs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/batch.h"
#include "backend/sampling.h"
#include "engine/prefix_tree.h"

namespace f1 {

struct Request {
  std::vector<int32_t> token_ids;  // the prompt
  SamplingParams sampling;
  int max_tokens = 0;  // to sample or append, the stop token counted
  std::vector<int32_t> stop_token_ids;
  int choice = 0;  // which of the n decodings of one prompt; its own random numbers
  SoftParams soft;

  bool is_soft() const { return soft.num_steps > 0 && max_tokens > 1; }
};

// Positions of a sequence, from the first token of the prompt to the last one sampled or appended:
//
//   0            num_published * 16     num_computed        num_slots()
//   |-- pages in the prefix tree --|-- K and V in own pages --|-- reserved --|
//                                                     num_tokens() - num_computed still to compute;
//                                                     at 0 a token is waiting to be sampled
//
// Drafts are guesses of the tokens behind: computed with the last token in own pages, never
// published. Those that turn out to be what is sampled count as computed, the others' slots are
// written again.
//
// Soft steps stand within the request's tokens, or behind them. What follows them there is no token
// of the sequence before they are over:
//
//   0              soft.position        + mixes.size()
//   |-- tokens -------|-- mixes ------------|-- the request's other tokens --|-- sampled ...
//                     each has in token_ids the heaviest of its tokens, which nothing reads
struct Sequence {
  Sequence(int64_t id, Request asked)
      : id(id), request(std::move(asked)), is_thinking(request.is_soft()) {
    token_ids.reserve(request.token_ids.size() + request.max_tokens);
    token_ids.assign(request.token_ids.begin(), request.token_ids.begin() + num_given());
    if (request.sampling.has_penalties()) count_prompt();
  }

  const int64_t id;  // ascends in the order of submission
  const Request request;
  std::vector<int32_t> token_ids;  // the prompt and what was sampled or appended
  std::vector<int32_t> page_ids;   // position p lives in page_ids[p / kPageSize]
  int num_computed = 0;
  int num_published = 0;                             // pages that are nodes of the prefix tree
  PrefixTree::NodeId last_node = PrefixTree::kRoot;  // of the last published page
  int num_cached_tokens = -1;  // of the prompt, found in the tree on admission; -1: never admitted
  std::vector<TokenCount> seen;  // kept only where penalties ask for it
  std::vector<int32_t> drafts;   // for the next step that samples
  bool is_paused = false;        // nobody can say yet what may be sampled: see Engine::pause()
  bool is_thinking;              // takes soft steps before anything is sampled
  std::vector<Mix> mixes;        // of the soft steps so far
  int num_cold = 0;              // of those that would come next, in a row

  int num_tokens() const { return static_cast<int>(token_ids.size()); }
  int num_prompt() const { return static_cast<int>(request.token_ids.size()); }
  int num_given() const { return is_thinking ? request.soft.position : num_prompt(); }
  int num_sampled() const { return num_tokens() - num_given(); }  // soft steps count
  int num_left() const { return request.max_tokens - num_sampled(); }
  int num_to_compute() const { return num_tokens() - num_computed; }
  // The last token is what one is sampled from: it is left while the sequence is paused.
  int num_computable() const { return num_to_compute() - (is_paused ? 1 : 0); }
  int num_slots() const { return static_cast<int>(page_ids.size()) * kPageSize; }

  // From here on K and V do not follow from the tokens alone: the prefix tree must not have them.
  int num_keyed() const {
    return is_thinking || !mixes.empty() ? request.soft.position : std::numeric_limits<int>::max();
  }
  // What stands at the position in place of a token; null: the token does.
  const Mix* mix_at(int position) const {
    const size_t index = static_cast<size_t>(position - request.soft.position);
    return position >= request.soft.position && index < mixes.size() ? &mixes[index] : nullptr;
  }

  // The 16 tokens of a page that the sequence's tokens fill.
  PrefixTree::PageTokens page_tokens(int page) const {
    return PrefixTree::PageTokens(token_ids.data() + page * kPageSize, kPageSize);
  }

  void append(int32_t token_id) {
    token_ids.push_back(token_id);
    if (request.sampling.has_penalties()) count(seen, token_id);
  }

  void think(Mix mix) {
    const auto heaviest = std::ranges::max_element(mix.weights) - mix.weights.begin();
    token_ids.push_back(mix.token_ids[heaviest]);
    mixes.push_back(std::move(mix));
    if (std::ssize(mixes) == request.soft.num_steps || num_left() == 1) end_thinking();
  }

  void end_thinking() {
    is_thinking = false;
    token_ids.insert(token_ids.end(), request.token_ids.begin() + request.soft.position,
                     request.token_ids.end());
  }

  static void count(std::vector<TokenCount>& seen, int32_t token_id) {
    const auto place = std::ranges::lower_bound(seen, token_id, {}, &TokenCount::token_id);
    if (place != seen.end() && place->token_id == token_id) {
      ++place->num_sampled;
    } else {
      seen.insert(place, {token_id, 1});
    }
  }

 private:
  void count_prompt() {
    std::vector<int32_t> sorted = request.token_ids;
    std::ranges::sort(sorted);
    const auto repeated = std::ranges::unique(sorted);
    sorted.erase(repeated.begin(), repeated.end());
    for (int32_t token_id : sorted) seen.push_back({token_id, 0});
  }
};

}  // namespace f1
