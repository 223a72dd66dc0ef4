// Full pages of K and V that were computed before, found again by the tokens that led to them.
//
//   root --[16 tokens]--> page 7 --[16 tokens]--> page 2
//                               \--[16 tokens]--> page 9        a node is one page; its key is its
//                                                               parent and its 16 tokens, compared
// token by token: a hash that collides can never show one request another one's context. Only whole
// pages, already computed and never written again, are in the tree. What no sequence uses is
// evicted from the leaves up, least recently used first; a warm path counts as used later than it
// was, so that it outlasts what passes through, but goes in the end where nobody comes back to it.
// A path that is held stays for a while whatever passes: as long as there is another page to take.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/batch.h"
#include "engine/page_pool.h"

namespace f1 {

class PrefixTree {
 public:
  using NodeId = int32_t;
  using PageTokens = std::span<const int32_t, kPageSize>;
  static constexpr NodeId kRoot = -1;
  static constexpr NodeId kNone = -2;

  explicit PrefixTree(PagePool& pool)
      : pool_(pool), warmth_(4 * uint64_t(pool.num_pages())), max_held_(pool.num_pages() / 2) {}

  // The child of `parent` along `tokens`, or kNone.
  NodeId find(NodeId parent, PageTokens tokens) const;
  // The same, made with `page_id` where there is none. The node found may hold another page with
  // the same content.
  NodeId insert(NodeId parent, PageTokens tokens, int32_t page_id);
  // Marks the node as just used.
  void touch(NodeId node);
  // Makes the path to the node warm, and marks it as just used.
  void keep_warm(NodeId node);
  // Holds the path to the node, or its first half a pool, until that time. Where all that is held
  // is more than half a pool, what would be let go first is let go now.
  void hold(NodeId node, int64_t until);
  // The time, in units of the caller's. Lets go of what was held until then.
  void advance(int64_t now);
  // Gives the least recently used page that no sequence uses back to the pool, before any that is
  // held; false if there is none.
  bool evict();

  static uint64_t hash(NodeId parent, PageTokens tokens);
  int32_t page_id(NodeId node) const { return nodes_[node].page_id; }
  int num_pages() const { return static_cast<int>(children_.size()); }
  int num_held() const { return num_held_; }  // pages of paths that are

  void check() const;

 private:
  struct Key {
    NodeId parent = kNone;
    std::array<int32_t, kPageSize> tokens{};
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const { return hash(key.parent, key.tokens); }
  };
  struct Node {
    Key key;
    int32_t page_id = -1;
    int num_children = 0;
    bool is_warm = false;
    uint64_t last_used = 0;  // by the clock, which moves by pages; for a warm node later
    int64_t held_until = 0;  // 0: no path that is held ends here
    int num_holds = 0;       // paths that are held and lead here or through here
  };
  using Leaf = std::pair<uint64_t, NodeId>;  // (last_used, node)

  static Key make_key(NodeId parent, PageTokens tokens);
  void use(NodeId node, uint64_t time);
  void let_go(NodeId node);
  void remove(NodeId node);

  PagePool& pool_;
  const uint64_t warmth_;  // pages that must pass before a warm path ranks with others
  std::vector<Node> nodes_;
  std::vector<NodeId> unused_nodes_;
  std::unordered_map<Key, NodeId, KeyHash> children_;
  std::set<Leaf> leaves_;  // but those where a path that is held ends
  std::set<std::pair<int64_t, NodeId>> holds_;  // (held_until, where the path ends)
  const int max_held_;
  int num_held_ = 0;
  int64_t now_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace f1
