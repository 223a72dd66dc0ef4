#include "engine/scheduler.h"

#include <algorithm>

#include "core/error.h"

namespace f1 {
namespace {

int num_pages_for(int num_tokens) { return (num_tokens + kPageSize - 1) / kPageSize; }

}  // namespace

Scheduler::Scheduler(const EngineOptions& options)
    : options_(options), pool_(options.num_pages), tree_(pool_) {
  if (options.max_sequences < 1 || options.max_sequences > options.max_batch_tokens) {
    throw InvalidArgument(concat("max_sequences must be in 1..max_batch_tokens (",
                                 options.max_batch_tokens, "), got ", options.max_sequences));
  }
  if (options.max_draft_tokens < 0) {
    throw InvalidArgument(
        concat("max_draft_tokens must not be negative, got ", options.max_draft_tokens));
  }
  running_.reserve(options.max_sequences);
  chunks_.reserve(options.max_sequences);
}

void Scheduler::submit(std::unique_ptr<Sequence> sequence) {
  // The last token is sampled and never computed.
  const int num_tokens = sequence->num_prompt() + sequence->request.max_tokens - 1;
  if (num_pages_for(num_tokens) > pool_.num_pages()) {
    throw InvalidArgument(concat("prompt and max_tokens need ", num_tokens,
                                 " slots of K and V; the cache has ",
                                 pool_.num_pages() * kPageSize));
  }
  waiting_.push_back(std::move(sequence));
}

Sequence* Scheduler::find(int64_t id) const {
  for (const auto& sequence : running_) {
    if (sequence->id == id) return sequence.get();
  }
  for (const auto& sequence : waiting_) {
    if (sequence->id == id) return sequence.get();
  }
  return nullptr;
}

Sequence* Scheduler::fork(const Sequence& parent, int64_t id, int choice,
                          const std::function<void(int32_t, int32_t)>& copy) {
  const bool is_running = !parent.page_ids.empty();
  const bool has_pages = pool_.num_free() + pool_.num_reclaimable() >= num_running() + 2;
  if (!is_running || !waiting_.empty() || !has_pages || num_running() >= options_.max_sequences) {
    return nullptr;
  }
  Request request = parent.request;
  request.choice = choice;
  auto child = std::make_unique<Sequence>(id, std::move(request));
  child->token_ids = parent.token_ids;
  child->seen = parent.seen;
  child->num_computed = parent.num_computed;
  child->num_published = parent.num_published;
  child->last_node = parent.last_node;
  child->num_cached_tokens = parent.num_cached_tokens;
  child->is_thinking = parent.is_thinking;
  child->mixes = parent.mixes;
  child->num_cold = parent.num_cold;
  const int num_full = parent.num_computed / kPageSize;
  for (int i = 0; i < num_full; ++i) {
    pool_.share(parent.page_ids[i]);
    child->page_ids.push_back(parent.page_ids[i]);
  }
  if (parent.num_computed % kPageSize != 0) {
    allocate_page(*child);
    copy(parent.page_ids[num_full], child->page_ids.back());
  }
  running_.push_back(std::move(child));
  return running_.back().get();
}

void Scheduler::finish(Sequence& sequence) {
  release_pages(sequence);
  std::erase_if(chunks_, [&](const Chunk& chunk) { return chunk.sequence == &sequence; });
  const auto is_it = [&](const auto& other) { return other.get() == &sequence; };
  if (std::erase_if(running_, is_it) == 0) std::erase_if(waiting_, is_it);
}

const std::vector<Chunk>& Scheduler::schedule() {
  chunks_.clear();
  budget_ = options_.max_batch_tokens;
  // Oldest first is also decodes first: a prompt is admitted only when those before it are through.
  // plan() may preempt from the back of running_, but neither the sequence it plans nor one before.
  for (size_t i = 0; i < running_.size(); ++i) plan(*running_[i]);
  admit_waiting();
  plan_drafts();
  return chunks_;
}

void Scheduler::commit() {
  for (const Chunk& chunk : chunks_) {
    chunk.sequence->num_computed += chunk.num_tokens;
    if (options_.prefix_reuse) publish(*chunk.sequence);
  }
  chunks_.clear();
}

void Scheduler::accept_drafts(Sequence& sequence, int num_tokens) {
  sequence.num_computed += num_tokens;
  if (options_.prefix_reuse) publish(sequence);
}

std::vector<int32_t> Scheduler::find_prefix(std::span<const int32_t> token_ids) {
  std::vector<int32_t> page_ids;
  const std::vector<PrefixTree::NodeId> nodes = find_nodes(token_ids);
  for (const PrefixTree::NodeId node : nodes) page_ids.push_back(tree_.page_id(node));
  tree_.keep_warm(nodes.empty() ? PrefixTree::kRoot : nodes.back());
  return page_ids;
}

void Scheduler::hold_prefix(std::span<const int32_t> token_ids, int64_t until) {
  const std::vector<PrefixTree::NodeId> nodes = find_nodes(token_ids);
  if (!nodes.empty()) tree_.hold(nodes.back(), until);
}

std::vector<PrefixTree::NodeId> Scheduler::find_nodes(std::span<const int32_t> token_ids) const {
  std::vector<PrefixTree::NodeId> nodes;
  PrefixTree::NodeId node = PrefixTree::kRoot;
  for (; token_ids.size() >= kPageSize; token_ids = token_ids.subspan(kPageSize)) {
    node = tree_.find(node, token_ids.first<kPageSize>());
    if (node == PrefixTree::kNone) break;
    nodes.push_back(node);
  }
  return nodes;
}

int Scheduler::restore_prefix(std::span<const int32_t> token_ids,
                              const std::function<void(int, int32_t)>& write) {
  if (!options_.prefix_reuse) return 0;
  // Like a sequence it uses the path it walks, so that one page is not evicted for the next.
  struct Walk {
    Scheduler& scheduler;
    PrefixTree::NodeId last = PrefixTree::kRoot;
    std::vector<int32_t> page_ids = {};
    ~Walk() {
      scheduler.tree_.keep_warm(last);
      for (int32_t page_id : page_ids) scheduler.pool_.free(page_id);
    }
  } walk{*this};
  for (; token_ids.size() >= kPageSize; token_ids = token_ids.subspan(kPageSize)) {
    const auto tokens = token_ids.first<kPageSize>();
    PrefixTree::NodeId node = tree_.find(walk.last, tokens);
    if (node != PrefixTree::kNone) {
      pool_.share(tree_.page_id(node));
      walk.page_ids.push_back(tree_.page_id(node));
    } else {
      if (pool_.num_free() == 0 && !tree_.evict()) break;
      const int index = static_cast<int>(walk.page_ids.size());
      walk.page_ids.push_back(pool_.allocate());
      write(index, walk.page_ids.back());
      node = tree_.insert(walk.last, tokens, walk.page_ids.back());
    }
    walk.last = node;
  }
  return static_cast<int>(walk.page_ids.size());
}

void Scheduler::plan(Sequence& sequence) {
  reuse_prefix(sequence);
  if (is_next_page_underway(sequence)) return;  // the next step finds it in the tree
  const int wanted = std::min(budget_, sequence.num_computable());
  const int num_tokens = reserve(sequence, wanted);
  if (num_tokens == 0) return;
  chunks_.push_back({&sequence, num_tokens});
  budget_ -= num_tokens;
}

// Drafts take what room is left: nobody waits or is preempted for a guess.
void Scheduler::plan_drafts() {
  int left = std::min(options_.max_draft_tokens, budget_);
  for (Chunk& chunk : chunks_) {
    Sequence& sequence = *chunk.sequence;
    if (sequence.drafts.empty() || sequence.is_thinking) continue;
    if (chunk.num_tokens < sequence.num_to_compute()) continue;
    const int num_drafts = static_cast<int>(sequence.drafts.size());
    const int wanted = std::min({num_drafts, left, sequence.num_left() - 1});
    while (sequence.num_slots() < sequence.num_tokens() + wanted && allocate_page(sequence)) {
    }
    chunk.num_drafts = std::min(wanted, sequence.num_slots() - sequence.num_tokens());
    left -= chunk.num_drafts;
  }
}

void Scheduler::admit_waiting() {
  while (!waiting_.empty() && num_running() < options_.max_sequences && budget_ > 0) {
    Sequence& sequence = *waiting_.front();
    reuse_prefix(sequence);
    if (!running_.empty() && (!has_room(sequence) || is_next_page_underway(sequence))) {
      release_pages(sequence);
      return;
    }
    if (sequence.num_cached_tokens < 0) {
      sequence.num_cached_tokens = std::min(sequence.num_computed, sequence.num_prompt());
    }
    num_reused_tokens_ += sequence.num_computed;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    plan(sequence);
  }
}

// Whether the sequence can be admitted without soon preempting it again: pages for all its tokens,
// and one for each running sequence to grow into.
bool Scheduler::has_room(const Sequence& sequence) const {
  const int needed = num_pages_for(sequence.num_to_compute()) + num_running() + 1;
  return pool_.num_free() + pool_.num_reclaimable() >= needed;
}

// Finds pages for the next `num_tokens` tokens; returns for how many there is room.
int Scheduler::reserve(Sequence& sequence, int num_tokens) {
  while (sequence.num_slots() < sequence.num_computed + num_tokens) {
    if (allocate_page(sequence)) continue;
    if (!preempt_newer_than(sequence)) return sequence.num_slots() - sequence.num_computed;
  }
  return num_tokens;
}

bool Scheduler::allocate_page(Sequence& sequence) {
  if (pool_.num_free() == 0 && !tree_.evict()) return false;
  sequence.page_ids.push_back(pool_.allocate());
  return true;
}

bool Scheduler::preempt_newer_than(const Sequence& sequence) {
  Sequence& newest = *running_.back();
  if (&newest == &sequence) return false;
  release_pages(newest);
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
  ++num_preemptions_;
  return true;
}

// Takes over pages that are in the prefix tree, as long as the sequence stands at a page's start.
// The last token is always computed: its logits are what the sequence is here for.
void Scheduler::reuse_prefix(Sequence& sequence) {
  if (!options_.prefix_reuse) return;
  while (sequence.num_computed == sequence.num_slots() &&
         sequence.num_computed + kPageSize < sequence.num_tokens() &&
         sequence.num_computed + kPageSize <= sequence.num_keyed()) {
    const auto tokens = sequence.page_tokens(sequence.num_published);
    const PrefixTree::NodeId node = tree_.find(sequence.last_node, tokens);
    if (node == PrefixTree::kNone) return;
    pool_.share(tree_.page_id(node));
    sequence.page_ids.push_back(tree_.page_id(node));
    sequence.last_node = node;
    ++sequence.num_published;
    sequence.num_computed += kPageSize;
  }
}

// Whether a sequence of this step completes just the page that this one would compute next.
bool Scheduler::is_next_page_underway(const Sequence& sequence) const {
  const int begin = sequence.num_published * kPageSize;
  const int end = begin + kPageSize;
  if (!options_.prefix_reuse || sequence.num_computed != begin || end >= sequence.num_tokens() ||
      end > sequence.num_keyed()) {
    return false;
  }
  return std::ranges::any_of(chunks_, [&](const Chunk& chunk) {
    const Sequence& other = *chunk.sequence;
    return other.last_node == sequence.last_node &&
           std::min(other.num_computed + chunk.num_tokens, other.num_keyed()) >= end &&
           std::ranges::equal(other.page_tokens(other.num_published),
                              sequence.page_tokens(sequence.num_published));
  });
}

// Puts pages that are full and computed into the tree. Where another sequence was first, its page
// replaces ours: the content is the same, and who uses a page uses the tree's path to it.
void Scheduler::publish(Sequence& sequence) {
  const int end = std::min(sequence.num_computed, sequence.num_keyed());
  while ((sequence.num_published + 1) * kPageSize <= end) {
    int32_t& page_id = sequence.page_ids[sequence.num_published];
    sequence.last_node =
        tree_.insert(sequence.last_node, sequence.page_tokens(sequence.num_published), page_id);
    const int32_t shared = tree_.page_id(sequence.last_node);
    if (shared != page_id) {
      pool_.share(shared);
      pool_.free(page_id);
      page_id = shared;
    }
    ++sequence.num_published;
  }
}

void Scheduler::release_pages(Sequence& sequence) {
  tree_.touch(sequence.last_node);
  for (int32_t page_id : sequence.page_ids) pool_.free(page_id);
  sequence.page_ids.clear();
  sequence.num_computed = 0;
  sequence.num_published = 0;
  sequence.last_node = PrefixTree::kRoot;
}

void Scheduler::check() const {
  pool_.check();
  tree_.check();
  std::vector<int> num_users(pool_.num_pages());
  int64_t last_id = -1;
  for (const auto& sequence : running_) {
    F1_CHECK(sequence->id > last_id, "sequence ", sequence->id);
    last_id = sequence->id;
    F1_CHECK(sequence->num_computed <= sequence->num_tokens(), "sequence ", last_id);
    F1_CHECK(sequence->num_computed <= sequence->num_slots(), "sequence ", last_id);
    F1_CHECK(sequence->num_published * kPageSize <= sequence->num_computed, "sequence ", last_id);
    F1_CHECK(sequence->num_published * kPageSize <= sequence->num_keyed(), "sequence ", last_id);
    PrefixTree::NodeId node = PrefixTree::kRoot;
    for (int i = 0; i < static_cast<int>(sequence->page_ids.size()); ++i) {
      const int32_t page_id = sequence->page_ids[i];
      ++num_users[page_id];
      const bool is_published = i < sequence->num_published;
      F1_CHECK(pool_.is_cached(page_id) == is_published, "sequence ", last_id, ", page ", page_id);
      if (!is_published) continue;
      node = tree_.find(node, sequence->page_tokens(i));
      F1_CHECK(node != PrefixTree::kNone && tree_.page_id(node) == page_id, "page ", page_id);
    }
    F1_CHECK(node == sequence->last_node, "sequence ", last_id);
  }
  for (const auto& sequence : waiting_) {
    F1_CHECK(sequence->id > last_id, "sequence ", sequence->id);
    last_id = sequence->id;
    F1_CHECK(sequence->page_ids.empty() && sequence->num_computed == 0, "sequence ", last_id);
  }
  for (int i = 0; i < pool_.num_pages(); ++i) {
    F1_CHECK(pool_.num_users(i) == num_users[i], "page ", i);
  }
}

}  // namespace f1
