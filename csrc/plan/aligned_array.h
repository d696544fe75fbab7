// An array that starts on a cache line.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#include "plan/plan.h"

namespace made_fast {

template <class T>
class AlignedArray {
 public:
  // Room for `size` values, not yet written.
  T* allocate(size_t size) {
    size_ = size;
    const size_t bytes = (size * sizeof(T) + kAlign) / kAlign * kAlign;
    data_.reset(static_cast<T*>(std::aligned_alloc(kAlign, bytes)));
    if (!data_) throw std::bad_alloc();
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace made_fast
