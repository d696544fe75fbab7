// An array that starts on a cache line.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "plan/aligned_memory.h"

namespace made_fast {

template <class T>
class AlignedArray {
 public:
  // Room for `size` values, not yet written.
  T* allocate(size_t size) {
    size_ = size;
    data_.reset(static_cast<T*>(allocate_aligned(size * sizeof(T) + 1)));  // an empty one has an address too
    if (!data_) throw std::bad_alloc();
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { free_aligned(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace made_fast
