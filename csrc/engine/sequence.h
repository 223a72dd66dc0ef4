// A request, and the same while it runs.
#pragma once

#include <algorithm>
#include <cstdint>
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
struct Sequence {
  Sequence(int64_t id, Request asked)
      : id(id), request(std::move(asked)), token_ids(request.token_ids) {
    token_ids.reserve(token_ids.size() + request.max_tokens);
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

  int num_tokens() const { return static_cast<int>(token_ids.size()); }
  int num_sampled() const { return num_tokens() - static_cast<int>(request.token_ids.size()); }
  int num_left() const { return request.max_tokens - num_sampled(); }
  int num_to_compute() const { return num_tokens() - num_computed; }
  // The last token is what one is sampled from: it is left while the sequence is paused.
  int num_computable() const { return num_to_compute() - (is_paused ? 1 : 0); }
  int num_slots() const { return static_cast<int>(page_ids.size()) * kPageSize; }

  // The 16 tokens of a page that the sequence's tokens fill.
  PrefixTree::PageTokens page_tokens(int page) const {
    return PrefixTree::PageTokens(token_ids.data() + page * kPageSize, kPageSize);
  }

  void append(int32_t token_id) {
    token_ids.push_back(token_id);
    if (request.sampling.has_penalties()) count(seen, token_id);
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
    std::vector<int32_t> sorted = token_ids;
    std::ranges::sort(sorted);
    const auto repeated = std::ranges::unique(sorted);
    sorted.erase(repeated.begin(), repeated.end());
    for (int32_t token_id : sorted) seen.push_back({token_id, 0});
  }
};

}  // namespace f1
