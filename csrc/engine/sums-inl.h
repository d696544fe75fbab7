// Sums that variables are held to, while rows are drawn: what each lacks by lane, and which values leave a way to it.
#pragma once

#include <cstdint>

#include "engine/isa-inl.h"
#include "engine/scratch-inl.h"
#include "plan/plan.h"
#include "plan/request.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
class RunningSums {
 public:
  struct Positions {
    int64_t lacking, flags;
    Positions(const Plan<T>& plan, int lanes, Places& places)
        : lacking(places.add(kMostSums * lanes * int64_t(sizeof(int64_t)))),
          flags(places.add(plan.most_rooms * lanes)) {}
  };

  RunningSums(const Plan<T>& plan, const Sums& sums, int lanes, int64_t* lacking, uint8_t* flags)
      : sums_(sums),
        features_(plan.features),
        rooms_(plan.most_rooms),
        lanes_(lanes),
        lacking_(lacking),
        flags_(flags) {}

  bool any() const { return sums_.count > 0; }

  // Lanes have the conditions `sources`. Like the others never inlined: most draws have no sums.
  MADE_FAST_NOINLINE void start(const int64_t* sources) const {
    for (int64_t i = 0; i < sums_.count; ++i)
      for (int lane = 0; lane < lanes_; ++lane)
        lacking_[i * lanes_ + lane] = sums_.lacking[sources[lane] * sums_.count + i];
  }

  // In the place of flags of the values that a variable may have, by lane, those of the values that leave a way to the
  // total of its sum too.
  MADE_FAST_NOINLINE void restrict_to(const int64_t* sources, const Variable& variable,
                                      const Conditional<T>& conditional, const uint8_t** support) const {
    for (int lane = 0; lane < lanes_; ++lane) {
      const int64_t* reach = reach_of(sources[lane], variable);
      const int64_t sum = number_of(reach);
      if (sum < 0) continue;
      uint8_t* flags = flags_ + lane * rooms_;
      const bool spin = conditional.code == Code::spin;
      for (int32_t k = 0; k < conditional.size; ++k) {
        const int64_t rest = lacking_[sum * lanes_ + lane] - (spin ? 2 * k - 1 : k);
        flags[k] = support[lane][k] & static_cast<uint8_t>(can_be_added(reach, rest));
      }
      support[lane] = flags;
    }
  }

  // Goes on from what was drawn.
  MADE_FAST_NOINLINE void take(const int64_t* sources, const Variable& variable, const T* x) const {
    for (int lane = 0; lane < lanes_; ++lane) {
      const int64_t sum = number_of(reach_of(sources[lane], variable));
      if (sum >= 0) lacking_[sum * lanes_ + lane] -= static_cast<int64_t>(x[lane]);
    }
  }

 private:
  static int64_t at(const int64_t* reach, SumColumn column) { return reach[static_cast<int>(column)]; }
  static int64_t number_of(const int64_t* reach) { return reach == nullptr ? -1 : at(reach, SumColumn::sum); }

  const int64_t* reach_of(int64_t source, const Variable& variable) const {
    const int64_t pattern = sums_.pattern[source];
    return pattern < 0 ? nullptr : sums_.reaches + (pattern * features_ + variable.number) * Names<SumColumn>::count;
  }

  // Whether the variables of a sum that are drawn later can add just that.
  bool can_be_added(const int64_t* reach, int64_t rest) const {
    const int64_t place = rest - at(reach, SumColumn::low), bit = at(reach, SumColumn::first) + place;
    return place >= 0 && place < at(reach, SumColumn::count) && (sums_.bits[bit / 8] >> (bit % 8) & 1) != 0;
  }

  const Sums& sums_;
  int64_t features_, rooms_;
  int lanes_;
  int64_t* lacking_;  // (count, lanes)
  uint8_t* flags_;    // (lanes, rooms)
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
