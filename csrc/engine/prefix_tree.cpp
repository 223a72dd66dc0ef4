#include "engine/prefix_tree.h"

#include <algorithm>

#include "core/error.h"

namespace f1 {

uint64_t PrefixTree::hash(NodeId parent, PageTokens tokens) {
  uint64_t hash = static_cast<uint32_t>(parent);
  for (int32_t token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 32;
  }
  return hash;
}

PrefixTree::Key PrefixTree::make_key(NodeId parent, PageTokens tokens) {
  Key key{.parent = parent};
  std::copy(tokens.begin(), tokens.end(), key.tokens.begin());
  return key;
}

PrefixTree::NodeId PrefixTree::find(NodeId parent, PageTokens tokens) const {
  const auto found = children_.find(make_key(parent, tokens));
  return found == children_.end() ? kNone : found->second;
}

PrefixTree::NodeId PrefixTree::insert(NodeId parent, PageTokens tokens, int32_t page_id) {
  if (unused_nodes_.empty()) {
    unused_nodes_.push_back(static_cast<NodeId>(nodes_.size()));
    nodes_.emplace_back();
  }
  const auto [found, is_new] =
      children_.try_emplace(make_key(parent, tokens), unused_nodes_.back());
  const NodeId node = found->second;
  if (is_new) {
    unused_nodes_.pop_back();
    nodes_[node] = {.key = found->first, .page_id = page_id, .last_used = ++clock_};
    leaves_.emplace(clock_, node);
    if (parent != kRoot && nodes_[parent].num_children++ == 0) {
      leaves_.erase({nodes_[parent].last_used, parent});
    }
    pool_.cache(page_id);
  }
  return node;
}

void PrefixTree::touch(NodeId node) {
  if (node != kRoot) use(node, ++clock_);
}

void PrefixTree::keep_warm(NodeId node) {
  ++clock_;
  for (; node != kRoot; node = nodes_[node].key.parent) {
    nodes_[node].is_warm = true;
    use(node, clock_);
  }
}

void PrefixTree::use(NodeId id, uint64_t time) {
  Node& node = nodes_[id];
  const bool is_leaf = leaves_.erase({node.last_used, id}) > 0;
  node.last_used = std::max(node.last_used, time + (node.is_warm ? warmth_ : 0));
  if (is_leaf) leaves_.emplace(node.last_used, id);
}

void PrefixTree::hold(NodeId id, int64_t until) {
  int depth = 0;
  for (NodeId above = id; above != kRoot; above = nodes_[above].key.parent) ++depth;
  for (; depth > max_held_; --depth) id = nodes_[id].key.parent;
  if (id == kRoot || until <= std::max(now_, nodes_[id].held_until)) return;
  let_go(id);
  leaves_.erase({nodes_[id].last_used, id});
  nodes_[id].held_until = until;
  holds_.emplace(until, id);
  for (; id != kRoot; id = nodes_[id].key.parent) num_held_ += nodes_[id].num_holds++ == 0;
  while (num_held_ > max_held_) let_go(holds_.begin()->second);
}

// What keeps a path is that its last node is no leaf to be evicted.
void PrefixTree::let_go(NodeId id) {
  Node& node = nodes_[id];
  if (holds_.erase({node.held_until, id}) == 0) return;
  node.held_until = 0;
  if (node.num_children == 0) leaves_.emplace(node.last_used, id);
  for (; id != kRoot; id = nodes_[id].key.parent) num_held_ -= --nodes_[id].num_holds == 0;
}

void PrefixTree::advance(int64_t now) {
  now_ = now;
  while (!holds_.empty() && holds_.begin()->first <= now) let_go(holds_.begin()->second);
}

bool PrefixTree::evict() {
  while (pool_.num_reclaimable() > 0) {
    // A sequence uses a whole path, so of the leaves it keeps at most one from eviction: this looks
    // at no more than one leaf a running sequence.
    const auto oldest = std::find_if(leaves_.begin(), leaves_.end(), [&](const Leaf& leaf) {
      return pool_.num_users(nodes_[leaf.second].page_id) == 0;
    });
    if (oldest != leaves_.end()) {
      remove(oldest->second);
      return true;
    }
    let_go(holds_.begin()->second);  // nobody waits for a page that nobody uses
  }
  return false;
}

void PrefixTree::remove(NodeId id) {
  Node& node = nodes_[id];
  leaves_.erase({node.last_used, id});
  children_.erase(node.key);
  pool_.uncache(node.page_id);
  const NodeId parent = node.key.parent;
  if (parent != kRoot) {
    Node& above = nodes_[parent];  // who used the page used the path to it
    const uint64_t warmth = above.is_warm && !node.is_warm ? warmth_ : 0;
    above.last_used = std::max(above.last_used, node.last_used + warmth);
    const bool is_leaf = --above.num_children == 0;
    if (is_leaf && above.held_until == 0) leaves_.emplace(above.last_used, parent);
  }
  node = Node{};
  unused_nodes_.push_back(id);
}

void PrefixTree::check() const {
  std::vector<int> num_children(nodes_.size());
  std::vector<bool> seen(pool_.num_pages());
  for (const auto& [key, id] : children_) {
    const Node& node = nodes_[id];
    F1_CHECK(node.key == key, "node ", id);
    F1_CHECK(pool_.is_cached(node.page_id) && !seen[node.page_id], "page ", node.page_id);
    seen[node.page_id] = true;
    if (key.parent == kRoot) continue;
    ++num_children[key.parent];
    const int32_t parent_page = nodes_[key.parent].page_id;
    F1_CHECK(parent_page >= 0, "node ", id, " hangs from nothing");
    // What makes "unused" mean "evictable": who uses a page uses the path to it.
    F1_CHECK(pool_.num_users(parent_page) >= pool_.num_users(node.page_id), "node ", id);
  }
  std::vector<int> num_holds(nodes_.size());
  for (const auto& [until, end] : holds_) {
    F1_CHECK(nodes_[end].held_until == until && until > now_, "node ", end);
    for (NodeId id = end; id != kRoot; id = nodes_[id].key.parent) ++num_holds[id];
  }
  size_t num_leaves = 0;
  int num_held = 0;
  for (const auto& [key, id] : children_) {
    F1_CHECK(nodes_[id].num_children == num_children[id], "node ", id);
    F1_CHECK(nodes_[id].num_holds == num_holds[id], "node ", id);
    num_held += num_holds[id] > 0;
    const bool is_leaf = num_children[id] == 0 && nodes_[id].held_until == 0;
    F1_CHECK(leaves_.contains({nodes_[id].last_used, id}) == is_leaf, "node ", id);
    num_leaves += is_leaf;
  }
  F1_CHECK(num_held == num_held_ && num_held <= max_held_, num_held, " held pages");
  F1_CHECK(num_leaves == leaves_.size());
  F1_CHECK(children_.size() + unused_nodes_.size() == nodes_.size());
}

}  // namespace f1
