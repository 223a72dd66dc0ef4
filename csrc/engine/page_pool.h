// Who uses which page of the KV cache. A page is always in exactly one of three states:
//
//            allocate                cache (the prefix tree keeps it)
//   free ---------------> in use ---------------------------------> in use + cached
//     ^                     |                                         |         ^
//     |   free (last user)  |                     free (last user)    v         | share
//     +---------------------+                                     reclaimable --+
//     +-------------------------- uncache (evicted) ------------------+
#pragma once

#include <cstdint>
#include <vector>

namespace f1 {

class PagePool {
 public:
  explicit PagePool(int num_pages);

  int num_pages() const { return static_cast<int>(pages_.size()); }
  int num_free() const { return static_cast<int>(free_.size()); }
  // Cached and used by no sequence: free as soon as the tree lets go of it.
  int num_reclaimable() const { return num_reclaimable_; }
  int num_users(int32_t page_id) const { return pages_[page_id].num_users; }
  bool is_cached(int32_t page_id) const { return pages_[page_id].is_cached; }

  int32_t allocate();           // a free page, now with one user; num_free() must not be 0
  void share(int32_t page_id);  // one user more
  void free(int32_t page_id);   // one user fewer
  void cache(int32_t page_id);
  void uncache(int32_t page_id);

  void check() const;  // throws InternalError where an invariant is broken

 private:
  struct Page {
    int32_t num_users = 0;
    bool is_cached = false;
  };

  std::vector<Page> pages_;
  std::vector<int32_t> free_;  // a stack: the page freed last is still warm
  int num_reclaimable_ = 0;
};

}  // namespace f1
