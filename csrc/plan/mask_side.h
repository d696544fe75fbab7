// Owns the arrays of a MaskView: one side of a mask (its rows, or after transposition its columns), as
// made_fast/masks/plan.py makes it.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/mask_view.h"

namespace made_fast {

// The arrays of MaskSide in made_fast/masks/plan.py, groups row by row.
struct MaskSideSource {
  std::vector<int32_t> rows, columns, longest_first, positions;
  std::vector<uint16_t> bits;
  std::vector<MaskGroup> groups;
  bool contiguous;
};

class MaskSide {
 public:
  // Throws std::invalid_argument if a product would read or write outside of the arrays.
  explicit MaskSide(MaskSideSource source);
  MaskSide(const MaskSide&) = delete;

  const MaskView& view() const { return view_; }

 private:
  void check() const;
  void check_group(const MaskGroup& group, int64_t number) const;

  MaskSideSource source_;
  std::vector<int32_t> places_;
  MaskView view_;
};

}  // namespace made_fast
