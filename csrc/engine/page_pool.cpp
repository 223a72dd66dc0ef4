#include "engine/page_pool.h"

#include "core/error.h"

namespace f1 {

PagePool::PagePool(int num_pages) {
  if (num_pages < 1) throw InvalidArgument(concat("num_pages must be positive, got ", num_pages));
  pages_.resize(num_pages);
  free_.reserve(num_pages);
  for (int32_t page_id = num_pages - 1; page_id >= 0; --page_id) free_.push_back(page_id);
}

int32_t PagePool::allocate() {
  F1_CHECK(!free_.empty());
  const int32_t page_id = free_.back();
  free_.pop_back();
  pages_[page_id].num_users = 1;
  return page_id;
}

void PagePool::share(int32_t page_id) {
  Page& page = pages_[page_id];
  F1_CHECK(page.num_users > 0 || page.is_cached, "page ", page_id, " is free");
  if (page.num_users++ == 0) --num_reclaimable_;
}

void PagePool::free(int32_t page_id) {
  Page& page = pages_[page_id];
  F1_CHECK(page.num_users > 0, "page ", page_id);
  if (--page.num_users > 0) return;
  if (page.is_cached) {
    ++num_reclaimable_;
  } else {
    free_.push_back(page_id);
  }
}

void PagePool::cache(int32_t page_id) {
  Page& page = pages_[page_id];
  F1_CHECK(page.num_users > 0 && !page.is_cached, "page ", page_id);
  page.is_cached = true;
}

void PagePool::uncache(int32_t page_id) {
  Page& page = pages_[page_id];
  F1_CHECK(page.num_users == 0 && page.is_cached, "page ", page_id);
  page.is_cached = false;
  --num_reclaimable_;
  free_.push_back(page_id);
}

void PagePool::check() const {
  std::vector<bool> is_free(pages_.size());
  for (int32_t page_id : free_) {
    F1_CHECK(!is_free[page_id], "page ", page_id, " is free twice");
    is_free[page_id] = true;
  }
  int num_reclaimable = 0;
  for (size_t i = 0; i < pages_.size(); ++i) {
    const Page& page = pages_[i];
    F1_CHECK(page.num_users >= 0, "page ", i);
    F1_CHECK(is_free[i] == (page.num_users == 0 && !page.is_cached), "page ", i);
    num_reclaimable += page.num_users == 0 && page.is_cached;
  }
  F1_CHECK(num_reclaimable == num_reclaimable_);
}

}  // namespace f1
