// Draws variables of some rows, one vector lane each: noise, conditions by lane, sums of log-probabilities. Shared by
// both paths; the path for one row fills a vector with it.
#pragma once

#include <cstdint>

#include "engine/conditionals-inl.h"
#include "engine/noise-inl.h"
#include "engine/scratch-inl.h"
#include "engine/sums-inl.h"
#include "plan/plan.h"
#include "plan/request.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// out = scale * x + shift. Never inlined, so that both paths round alike. `lanes` is a whole number of vectors.
template <class T>
MADE_FAST_NOINLINE void scale_numbers(const Conditional<T>& conditional, const T* x, T* out, int lanes) {
  for (int i = 0; i < lanes; i += kLanes<T>) store<T>(out + i, load<T>(x + i) * conditional.scale + conditional.shift);
}

// What the network reads of categories: unit u of lane r goes to out[u * stride + r].
template <class T>
void encode_categories(const Conditional<T>& conditional, const T* table, const T* x, int lanes, T* out,
                       int64_t stride) {
  for (int lane = 0; lane < lanes; ++lane) {
    const int64_t category = static_cast<int64_t>(x[lane]);
    for (int64_t unit = 0; unit < conditional.units; ++unit)
      out[unit * stride + lane] =
          conditional.encoding == Encoding::one_hot ? T(unit == category) : table[category * conditional.units + unit];
  }
}

template <class T>
class Drawing {
 public:
  using Mask = typename Simd<T>::Scalar;

  // `lanes` is a whole number of vectors, at least `rows`, and repeats after `period`, at least `rows` too; what lies
  // between the last row and that is row 0 once more.
  Drawing(const Plan<T>& plan, const Request<T>& request, int64_t base, int rows, int period, int lanes, char* scratch)
      : plan_(plan),
        request_(request),
        base_(base),
        rows_(rows),
        lanes_(lanes),
        repeated_(period),
        at_(plan, lanes),
        running_(plan, request.conditions.sums, lanes, reinterpret_cast<int64_t*>(scratch + at_.running.lacking),
                 reinterpret_cast<uint8_t*>(scratch + at_.running.flags)) {
    const auto place = [scratch](int64_t at) { return static_cast<void*>(scratch + at); };
    words_ = static_cast<uint32_t*>(place(at_.words));
    same_words_ = static_cast<uint32_t*>(place(at_.same_words));
    room_ = static_cast<T*>(place(at_.room));
    numbers_ = static_cast<T*>(place(at_.numbers));
    observed_ = static_cast<Mask*>(place(at_.observed));
    support_ = static_cast<const uint8_t**>(place(at_.support));
    sources_ = static_cast<int64_t*>(place(at_.sources));
    sums_ = static_cast<double*>(place(at_.sums));
    held_ = Lanes<T>{false, false, observed_, numbers(given), support_, numbers(lower), numbers(upper)};
    for (int lane = 0; lane < lanes; ++lane) {
      sources_[lane] = request.conditions.any() ? request.source(row_of(lane)) : 0;
      sums_[lane] = sums_[lanes + lane] = 0;
    }
    if (running_.any()) running_.start(sources_);
  }

  static int64_t bytes(const Plan<T>& plan, int lanes) { return Positions(plan, lanes).bytes; }
  bool nan_seen() const { return nan_seen_; }

  void draw(const Variable& variable, const T* params, int64_t stride, T* x) {
    const Conditional<T>& conditional = plan_.conditionals[variable.conditional];
    const bool held = hold(variable, conditional);
    DrawTask<T> task{};
    task.conditional = &conditional;
    task.params = params;
    task.stride = stride;
    if (!all_observed_) task.words = words_of(variable.noise_step, task.words_stride);
    task.decoding = &request_.decoding;
    task.lanes = held ? &held_ : nullptr;
    task.room = room_;
    task.x = x;
    const bool weighed = held && request_.log_weight != nullptr;
    if (request_.log_prob != nullptr || (weighed && held_.any_observed)) task.log_prob = numbers(log_prob);
    if (weighed) task.log_mass = numbers(log_mass);
    nan_seen_ |= draw_conditional<T>(task, lanes_ / kLanes<T>);
    if (running_.any()) running_.take(sources_, variable, x);
    for (int lane = 0; lane < lanes_ && request_.log_prob != nullptr; ++lane)
      sums_[lane] += static_cast<double>(task.log_prob[lane]);
    for (int lane = 0; lane < lanes_ && weighed; ++lane)
      sums_[lanes_ + lane] += static_cast<double>(task.log_mass[lane]);
  }

  void read_sums(double& log_prob, double& log_weight) const {
    log_prob = sums_[0];
    log_weight = sums_[lanes_];
  }

  // What all lanes start from.
  void start_sums(double log_prob, double log_weight) {
    for (int lane = 0; lane < lanes_; ++lane) {
      sums_[lane] = log_prob;
      sums_[lanes_ + lane] = log_weight;
    }
  }

  void write_sums() const {
    for (int lane = 0; lane < rows_; ++lane) {
      if (request_.log_prob != nullptr) request_.log_prob[base_ + lane] = static_cast<T>(sums_[lane]);
      if (request_.log_weight != nullptr) request_.log_weight[base_ + lane] = static_cast<T>(sums_[lanes_ + lane]);
    }
  }

 private:
  enum Numbers { given, lower, upper, log_prob, log_mass, count_of_numbers };  // arrays of one number for each lane

  struct Positions {
    Places places;
    typename RunningSums<T>::Positions running;
    int64_t words, same_words, room, numbers, observed, support, sources, sums, bytes;
    Positions(const Plan<T>& plan, int lanes) : running(plan, lanes, places) {
      const int64_t counters = (lanes + kPhiloxLanes - 1) / kPhiloxLanes * kPhiloxLanes;
      words = places.add(plan.most_draws * 4 * counters * int64_t(sizeof(uint32_t)));
      same_words = places.add(plan.most_draws * kPhiloxLanes * int64_t(sizeof(uint32_t)));
      room = places.add(plan.most_rooms * kLanes<T> * int64_t(sizeof(T)));
      numbers = places.add(count_of_numbers * lanes * int64_t(sizeof(T)));
      observed = places.add(lanes * int64_t(sizeof(Mask)));
      support = places.add(lanes * int64_t(sizeof(const uint8_t*)));
      sources = places.add(lanes * int64_t(sizeof(int64_t)));
      sums = places.add(2 * lanes * int64_t(sizeof(double)));
      bytes = places.size();
    }
  };

  T* numbers(Numbers which) const { return numbers_ + which * lanes_; }
  int64_t row_of(int lane) const {
    const int row = repeated_.row_of(lane);
    return base_ + (row < rows_ ? row : 0);
  }

  // Words of all uniforms of a step, by lane; made for the four steps of a block, or of several blocks.
  const uint32_t* words_of(int32_t step, int64_t& stride) {
    const int64_t draws = plan_.most_draws;
    const int counters = (lanes_ + kPhiloxLanes - 1) / kPhiloxLanes * kPhiloxLanes;
    const int blocks = repeated_.blocks(), first_block = step / 4 & -blocks;
    if (first_block != block_) {
      block_ = first_block;
      for (int64_t i = 0; i < draws; ++i)
        for (int start = 0; start < counters; start += kPhiloxLanes)
          make_words(i, start, words_ + i * 4 * counters + start, counters);
    }
    const uint32_t* words = words_ + (step & 3) * counters;
    if (blocks == 1) {
      stride = 4 * counters;
      return words;
    }
    words += (step / 4 - first_block) << repeated_.shift;
    stride = kPhiloxLanes;
    for (int64_t i = 0; i < draws; ++i)
      for (int lane = 0; lane < kPhiloxLanes; ++lane)
        same_words_[i * kPhiloxLanes + lane] = words[i * 4 * counters + repeated_.row_of(lane)];
    return same_words_;
  }

  void make_words(int64_t draw, int start, uint32_t* words, int stride) const {
    const auto counter_of = [&](int i) {
      return Counter{static_cast<uint64_t>(block_ + repeated_.block_of(i)), request_.noise_row(row_of(start + i))};
    };
    noise_words(counter_of, static_cast<uint64_t>(draw), request_.seed, words, stride);
  }

  // Finds what each lane is held to; returns whether any is.
  bool hold(const Variable& variable, const Conditional<T>& conditional) {
    const Conditions<T>& all = request_.conditions;
    held_.any_observed = all_observed_ = false;
    held_.constrained = all.constrained != nullptr && all.constrained[variable.number] != 0;
    if (all.observed == nullptr && !held_.constrained) return false;
    Mask any = 0, every = -1;
    for (int lane = 0; lane < lanes_; ++lane) {
      const int64_t source = sources_[lane], at = source * plan_.features + variable.number;
      if (all.observed != nullptr) {
        observed_[lane] = all.observed[at] != 0 ? -1 : 0;
        numbers(given)[lane] = all.given[at];
        any |= observed_[lane];
        every &= observed_[lane];
      }
      if (!held_.constrained) continue;
      if (conditional.size > 0) {
        support_[lane] = all.support + source * all.support_size + variable.support;
      } else {
        numbers(lower)[lane] = all.bounds[2 * at];
        numbers(upper)[lane] = all.bounds[2 * at + 1];
      }
    }
    if (running_.any() && conditional.size > 0) running_.restrict_to(sources_, variable, conditional, support_);
    held_.any_observed = any != 0;
    all_observed_ = all.observed != nullptr && every != 0;
    return held_.any_observed || held_.constrained;
  }

  const Plan<T>& plan_;
  const Request<T>& request_;
  int64_t base_;  // row of this piece in lane 0
  int rows_, lanes_;
  Lanes16 repeated_;
  Positions at_;
  RunningSums<T> running_;
  uint32_t *words_, *same_words_;
  T *room_, *numbers_;
  Mask* observed_;
  const uint8_t** support_;
  int64_t* sources_;  // condition of each lane
  double* sums_;      // log_prob, then log_weight
  Lanes<T> held_{};
  int block_ = -1;
  bool all_observed_ = false, nan_seen_ = false;
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
