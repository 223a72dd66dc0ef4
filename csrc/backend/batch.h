// What one step computes: the tokens of all its sequences, flattened.
//
//   sequence       0           1                    2
//   token_ids    [ a b c ]   [ d ]                [ e f g h ]     T = 8
//   positions      4 5 6       91                   0 1 2 3       where each stands in its sequence
//   sequence_of    0 0 0       1                    2 2 2 2       B = 3
//   page_ids     | 7     |   11 3 5 0 9 4       |   6       |     position p of sequence b lives in
//   page_begin   0           1                      7         8   page_ids[page_begin[b] + p / 16]
//   head_tokens        2       3                          7       S = 3: their logits are wanted
//
// A token's input is its row of the embedding, or a mix of rows:
//
//   mixed_tokens             3                                    M = 1: token 3 is mixed, from
//   mix_begin              0 3                                    mix_ids[0..2]: 7, 1 and 40,
//   mix_ids, mix_weights   7 1 40,  .6 .3 .1                      and its own id means nothing
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace f1 {

inline constexpr int kPageSize = 16;  // slots of K and V in one page of the cache

struct Batch {
  std::vector<int32_t> token_ids;    // [T]
  std::vector<int32_t> positions;    // [T]
  std::vector<int32_t> sequence_of;  // [T], in 0..B-1, ascending
  std::vector<int32_t> page_ids;     // all page tables, one after another
  std::vector<int32_t> page_begin;   // [B + 1]
  std::vector<int32_t> head_tokens;  // [S], in 0..T-1

  std::vector<int32_t> mixed_tokens = {};  // [M], in 0..T-1
  std::vector<int32_t> mix_begin = {0};    // [M + 1]
  std::vector<int32_t> mix_ids = {};       // all mixes, one after another; none is empty
  std::vector<float> mix_weights = {};

  int num_tokens() const { return static_cast<int>(token_ids.size()); }
  int num_sequences() const { return static_cast<int>(page_begin.size()) - 1; }
  int num_mixes() const { return static_cast<int>(mixed_tokens.size()); }
};

// One row of logits to compute: of the s-th head token, for all V tokens or for the listed ones.
struct HeadRow {
  int head_index = 0;                      // s, an index into Batch::head_tokens
  std::span<const int32_t> listed_tokens;  // ascending; empty means all V
};

}  // namespace f1
