// The serving loop: requests in, one token a step out of each.
//
//   begin_step()            finish_step(masks)
//   schedule -> forward     head of the legal tokens -> sample -> append, finish
//               (between the two the caller fills grammar masks for what will be sampled)
//
// Failure is a state of one request (Finish::kNoLegalToken, kFault); exceptions mean that the
// caller misused the engine or that the device failed, and leave the engine as it was before the
// call. Not for several threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/batch.h"
#include "backend/sampler.h"
#include "backend/sampling.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "model/model.h"

namespace f1 {

enum class Finish {
  kNot,
  kStop,          // the token is one of the request's stop tokens
  kLength,        // max_tokens are sampled
  kNoLegalToken,  // the mask forbids every token; there is no token
  kFault,         // the logits were not numbers; there is no token
};

struct StepOutput {
  int64_t sequence_id = 0;
  SampledToken token;
  bool has_logprobs = false;     // they were asked for
  bool has_masked_mass = false;  // likewise
  Finish finish = Finish::kNot;  // after anything but kNot the sequence is gone
  int num_cached_tokens = 0;     // of the prompt, not computed because an earlier request had
  int num_soft_steps = 0;        // taken before the first token; they count against max_tokens
  std::optional<Reading> reading = {};  // where the sequence was watched
};

// Which tokens may follow: rows of [ceil(V / 32)] words, bit i % 32 of word i / 32 set = token i is
// legal. Row 0 is for the next token, row i for the one behind the sequence's first i drafts; drafts
// behind the last row are left alone.
struct MaskRows {
  const int32_t* words = nullptr;
  int num_rows = 0;
};
using TokenMasks = std::unordered_map<int64_t, MaskRows>;  // by sequence; absent: all legal

// Tokens that a sequence is watched for, ascending. Unless `always`, only a step that samples one of
// them is told of. It is read behind the sampling, from logits computed for that alone: no token
// depends on it, and what nobody watches costs nothing.
struct Watch {
  std::span<const int32_t> token_ids;
  bool always = false;
};
using Watches = std::unordered_map<int64_t, Watch>;  // by sequence

struct EngineStats {
  int num_running = 0;
  int num_waiting = 0;
  int num_free_pages = 0;
  int num_cached_pages = 0;       // in the prefix tree, used by sequences or not
  int num_reclaimable_pages = 0;  // of those, used by none
  int num_held_pages = 0;         // of those that are cached, given up last
  int64_t num_steps = 0;
  int64_t num_computed_tokens = 0;
  int64_t num_sampled_tokens = 0;
  int64_t num_appended_tokens = 0;
  int64_t num_drafted_tokens = 0;   // computed as guesses
  int64_t num_accepted_tokens = 0;  // of those, sampled
  int64_t num_reused_tokens = 0;
  int64_t num_preemptions = 0;
  int64_t num_soft_steps = 0;
};

class Engine {
 public:
  Engine(std::shared_ptr<const Model> model, const EngineOptions& options);

  // Returns the sequence's id. Throws InvalidArgument naming what is wrong with the request, also
  // when it could never fit the model's context or the cache.
  int64_t submit(Request request);
  // The sequence once more, from where it stands, as the given choice: what it samples from here on
  // is what a submission of its own would. Between begin_step() and finish_step() it waits for its
  // token too if the other does. Nothing where it could not run beside, or would have thought
  // otherwise (noise): then submit it.
  std::optional<int64_t> fork(int64_t id, int choice);
  // Tokens that follow without being sampled: the next step computes them with the last one. They
  // count against max_tokens, of which one must remain to be sampled. Not between begin_step() and
  // finish_step() for a sequence that waits for its token.
  void append(int64_t id, std::span<const int32_t> token_ids);
  // Guesses of the tokens that will be sampled next, for the next step that samples; what is sampled
  // does not depend on them. As many are tried as there is room for. Like append(), not for a
  // sequence that waits for its token.
  void draft(int64_t id, std::span<const int32_t> token_ids);
  // Until resume() the sequence is not sampled: all of it is computed but its last token. It keeps
  // its place and its pages; no token that is sampled depends on it. Like append(), not for a
  // sequence that waits for its token.
  void pause(int64_t id) { find_idle(id).is_paused = true; }
  void resume(int64_t id) { find_idle(id).is_paused = false; }
  // Ends a sequence early; what it computed can be reused. Of no effect where it has ended already.
  void abort(int64_t id);

  // Runs the layers over the next batch, and takes the soft steps that are due behind it. Returns
  // the sequences that now wait for their token, perhaps none (prompts too long for one step).
  std::vector<int64_t> begin_step();
  // Samples and appends the tokens of those sequences: one each, and one more for each draft that
  // was right. Masks and watches of others are ignored.
  std::vector<StepOutput> finish_step(const TokenMasks& masks, const Watches& watches = {});

  // Between steps alone: pages of K and V of shared prefixes, to keep them outside the process. A
  // prefix is whole pages of tokens from a sequence's start; its data [pages, kv_page_bytes()].
  using PageData = std::unique_ptr<std::byte[]>;
  using ReadPage = std::function<void(int index, std::span<std::byte> out)>;
  // What the cache holds of the prefix: its first pages, perhaps none.
  std::pair<int, PageData> save_prefix(std::span<const int32_t> token_ids);
  // Brings back pages that the cache lacks; read_page() fills one, and where it throws those before
  // stay. Returns how many of the prefix the cache now has: fewer where memory is short.
  int restore_prefix(std::span<const int32_t> token_ids, const ReadPage& read_page);

  // For so many seconds what the cache has of these tokens, whole pages from a sequence's start, is
  // given up last: half the cache at most.
  void hold_prefix(std::span<const int32_t> token_ids, double seconds);

  bool has_work() const { return scheduler_.has_work(); }
  // Tokens that the cache has room for.
  int capacity() const { return scheduler_.pool().num_pages() * kPageSize; }
  EngineStats stats() const;
  void check() const;  // throws InternalError where an invariant is broken

  const Model& model() const { return *model_; }

 private:
  // A sequence that begin_step() brought to its end and finish_step() samples for.
  struct Pending {
    Sequence* sequence = nullptr;
    int head_index = 0;  // of its last token's hidden state; those of its drafts follow
    int num_drafts = 0;
    size_t row_begin = 0;  // of rows_; there are at most 1 + num_drafts
    size_t num_rows = 0;
  };

  // A position that is sampled: behind a sequence's last token or one of its drafts.
  struct Row {
    const Sequence* sequence = nullptr;
    int num_drafts = 0;  // before it
    int head_index = 0;
    const int32_t* mask = nullptr;  // null: all legal
    bool is_listed = false;         // legal tokens are few: legal_tokens_[legal_begin ...]
    size_t legal_begin = 0;
    size_t num_legal = 0;
    int logits_row = -1;                // also of head_rows_ and sampled_; -1: no logits are needed
    std::vector<TokenCount> seen = {};  // with the drafts before it; only where there are some
    int reading = -1;                   // of readings_; -1: none
  };

  Sequence& find_idle(int64_t id) const;
  void fill_batch(const std::vector<Chunk>& chunks);
  void think();
  void commit_thoughts();
  void fill_rows(const TokenMasks& masks);
  Row make_row(const Pending& pending, int index, const int32_t* mask);
  void compute_logits();
  void sample_rows();
  void read_watched(const Watches& watches);
  bool read_sampled(Row& row, const Watch& watch);
  void keep_reading(Row& row, const Watch& watch);
  void commit(const Pending& pending, std::vector<StepOutput>& outputs);
  StepOutput commit_token(Sequence& sequence, const Row& row);
  SampledToken token_of(const Row& row);
  int32_t peek(const Row& row) const;
  std::span<const int32_t> listed_tokens(const Row& row) const;

  std::shared_ptr<const Model> model_;
  Scheduler scheduler_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Activations> activations_;
  std::unique_ptr<Logits> logits_;
  Batch batch_;
  Sampler sampler_;
  std::vector<float> host_logits_;                  // [V]
  std::vector<std::pair<Mix, float>> thoughts_;     // and entropies, of those pending that think
  std::vector<Pending> pending_;
  std::vector<Row> rows_;
  std::vector<int32_t> legal_tokens_;
  std::vector<HeadRow> head_rows_;
  std::vector<SampleRow> sample_rows_;
  std::vector<SampledToken> sampled_;
  std::vector<std::pair<Row*, const Watch*>> watched_;
  std::vector<Reading> readings_;
  int64_t next_id_ = 0;
  int64_t num_steps_ = 0, num_computed_tokens_ = 0, num_sampled_tokens_ = 0;
  int64_t num_appended_tokens_ = 0, num_drafted_tokens_ = 0, num_accepted_tokens_ = 0;
  int64_t num_soft_steps_ = 0;
};

}  // namespace f1
