// Decides what the next step computes, and keeps the books of sequences and pages.
//
// Sequences run in the order of submission: all that run are older than all that wait. Where pages
// run out a sequence takes them from newer ones (the newest is preempted: it gives up its pages,
// waits first in the queue, and later finds in the prefix tree what is left of them or computes it
// again) and never from older ones. So the oldest always moves, and everything ends.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/page_pool.h"
#include "engine/prefix_tree.h"
#include "engine/sequence.h"

namespace f1 {

struct EngineOptions {
  int num_pages = 0;           // of the KV cache, kPageSize tokens each
  int max_batch_tokens = 256;  // of all sequences in a step
  int max_sequences = 32;      // running at a time; at most max_batch_tokens
  bool prefix_reuse = true;
  int max_draft_tokens = 8;  // of all sequences in a step
};

// What a sequence computes in a step: its next `num_tokens` tokens and, where those are its last,
// `num_drafts` of its drafts behind them.
struct Chunk {
  Sequence* sequence = nullptr;
  int num_tokens = 0;
  int num_drafts = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const EngineOptions& options);

  // Throws InvalidArgument where the pool could never hold the sequence.
  void submit(std::unique_ptr<Sequence> sequence);
  Sequence* find(int64_t id) const;  // nullptr when unknown or finished
  // A running sequence once more, from where it stands and with random numbers of its own. Pages
  // that are full are shared; copy(from, to) is called for the one that both go on to write. Null
  // where it could not run beside: others wait, or memory or places are short.
  Sequence* fork(const Sequence& parent, int64_t id, int choice,
                 const std::function<void(int32_t, int32_t)>& copy);
  // Ends the sequence, which is gone after this; what it computed stays in the prefix tree.
  void finish(Sequence& sequence);

  // The next step: decodes first, then prompts in chunks, then drafts, as the budget of tokens
  // allows. Empty only when there is no work but for what is paused. The pages are reserved.
  const std::vector<Chunk>& schedule();
  // The step was computed: its full pages enter the prefix tree.
  void commit();
  // The last `num_tokens` tokens but one were drafts of the step that was committed.
  void accept_drafts(Sequence& sequence, int num_tokens);

  // The pages of the prefix tree along `token_ids`, whole ones from the first token on.
  std::vector<int32_t> find_prefix(std::span<const int32_t> token_ids);
  // Puts pages along `token_ids` into the tree: write(i, page_id) is to fill the i-th of them, and
  // is called for those that the tree lacks. Stops where neither a free nor an unused page is left,
  // and where write() throws. Returns how many of the pages the tree now has. Both keep the path
  // warm.
  int restore_prefix(std::span<const int32_t> token_ids,
                     const std::function<void(int, int32_t)>& write);

  // Holds the pages along `token_ids` that the tree has until that time: see PrefixTree::hold().
  void hold_prefix(std::span<const int32_t> token_ids, int64_t until);
  void advance(int64_t now) { tree_.advance(now); }

  bool has_work() const { return !running_.empty() || !waiting_.empty(); }
  const PagePool& pool() const { return pool_; }
  const PrefixTree& tree() const { return tree_; }
  int num_running() const { return static_cast<int>(running_.size()); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }
  int64_t num_reused_tokens() const { return num_reused_tokens_; }

  void check() const;  // throws InternalError where an invariant is broken

 private:
  std::vector<PrefixTree::NodeId> find_nodes(std::span<const int32_t> token_ids) const;
  void plan(Sequence& sequence);
  void plan_drafts();
  void admit_waiting();
  bool has_room(const Sequence& sequence) const;
  int reserve(Sequence& sequence, int num_tokens);
  bool allocate_page(Sequence& sequence);
  bool preempt_newer_than(const Sequence& sequence);
  void reuse_prefix(Sequence& sequence);
  bool is_next_page_underway(const Sequence& sequence) const;
  void publish(Sequence& sequence);
  void release_pages(Sequence& sequence);

  const EngineOptions options_;
  PagePool pool_;
  PrefixTree tree_;
  std::vector<std::unique_ptr<Sequence>> running_;  // oldest first
  std::deque<std::unique_ptr<Sequence>> waiting_;   // oldest first, all newer than the running
  std::vector<Chunk> chunks_;
  int budget_ = 0;  // tokens this step has still room for
  int64_t num_preemptions_ = 0;
  int64_t num_reused_tokens_ = 0;
};

}  // namespace f1
