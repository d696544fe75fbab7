#include "plan/check.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

namespace made_fast {
namespace {

template <class T>
class SourceCheck {
 public:
  explicit SourceCheck(const PlanSource<T>& source) : source_(source), shape_(source.shape) {}

  void run() {
    check_shape();
    for (const Conditional<T>& conditional : source_.conditionals) check_conditional(conditional);
    for (const Variable& variable : source_.variables) check_variable(variable);
    if (shape_.in_place) check_in_place();
    units_ = shape_.num_slots + looked_up_;
    for (const AffineSource& affine : source_.affines) check_affine(affine);
    for (const Step& step : source_.steps) check_step(step);
    check_slots();
    check_order();
  }

 private:
  void check_shape() const {
    require(inside(0, shape_.num_slots, std::numeric_limits<int32_t>::max()), "num_slots must be a count of slots");
    require(shape_.features == static_cast<int64_t>(source_.variables.size()), "variables must have D rows");
    require(shape_.x_slot >= 0, "x_slot must be a slot");
    const auto context_units = static_cast<int64_t>(source_.context_units.size());
    require(inside(shape_.context_slot, context_units, shape_.num_slots), "context_units must lie in slots");
    for (const int32_t unit : source_.context_units)
      require(inside(unit, 1, shape_.context_features), "context_units must be features of the context");
  }

  static int64_t params_of(const Conditional<T>& own) {
    switch (own.code) {
      case Code::categorical:
        return own.size;
      case Code::normal:
        return 2;
      case Code::mixture_of_normals:
      case Code::mixture_of_logistics:
        return 3 * int64_t{own.components};
      case Code::own:
        return 0;
      default:
        return 1;
    }
  }

  static bool fits_size(const Conditional<T>& own) {
    switch (own.code) {
      case Code::bernoulli:
      case Code::spin:
        return own.size == 2;
      case Code::categorical:
        return own.size >= 1;
      case Code::mixture_of_logistics:
        return own.size >= 2;
      case Code::own:
        return own.size >= 0;
      default:
        return own.size == 0;
    }
  }

  static void check_conditional(const Conditional<T>& own) {
    const bool mixture = own.code == Code::mixture_of_normals || own.code == Code::mixture_of_logistics;
    const bool without = own.code == Code::point || own.code == Code::own;
    require(own.num_params >= params_of(own), "conditionals must have all of their parameters");
    require(own.num_draws >= (without ? 0 : mixture ? 2 : 1), "conditionals must have all of their uniforms");
    require(own.components >= (mixture ? 1 : 0) && fits_size(own), "conditionals must count values and components");
    require(own.encoding == Encoding::number || own.code == Code::categorical,
            "only categories are not read as numbers");
    require(own.code != Code::own || own.own != nullptr, "own conditionals must have the address of their draw");
    require(own.units >= (own.encoding == Encoding::one_hot ? own.size : 1), "conditionals must have input units");
  }

  // Also counts the units of those that are looked up, which follow one another behind the slots.
  void check_variable(const Variable& variable) {
    require(inside(variable.number, 1, shape_.features), "variables must have numbers below D");
    require(inside(variable.noise_step, 1, shape_.features), "variables must have noise steps below D");
    require(inside(variable.conditional, 1, static_cast<int64_t>(source_.conditionals.size())),
            "variables must have one of the conditionals");
    const Conditional<T>& own = source_.conditionals[static_cast<size_t>(variable.conditional)];
    require(inside(variable.param_slot, own.num_params, shape_.num_slots), "parameters must lie in slots");
    require(inside(variable.support, own.size, std::numeric_limits<int64_t>::max()),
            "flags of a variable must lie in those of all");
    const int64_t table = own.encoding == Encoding::embedding ? int64_t{own.size} * own.units : 0;
    require(inside(variable.table, table, source_.table_size), "embeddings must lie in tables");
    if (variable.x_slot < shape_.num_slots) {
      require(inside(variable.x_slot, own.units, shape_.num_slots), "what is read of variables must lie in slots");
      return;
    }
    require(own.encoding == Encoding::one_hot, "only one-hot variables are looked up");
    require(variable.x_slot == shape_.num_slots + looked_up_, "variables that are looked up must follow one another");
    require(own.units < int64_t{1} << 26, "variables that are looked up must have fewer than 2**26 categories");
    looked_up_ += own.units;
    require(looked_up_ < int64_t{1} << 28, "units that are looked up must be fewer than 2**28");
  }

  // Memory is asked for in proportion to the slots.
  void check_slots() const {
    auto written = static_cast<int64_t>(source_.context_units.size());
    for (const Variable& variable : source_.variables)
      written += source_.conditionals[static_cast<size_t>(variable.conditional)].units;
    for (const Step& step : source_.steps) written += step.count;
    require(shape_.num_slots <= written, "num_slots must be no more than what is written");
  }

  void check_in_place() const {
    for (size_t place = 0; place < source_.variables.size(); ++place) {
      const Variable& variable = source_.variables[place];
      const Conditional<T>& own = source_.conditionals[static_cast<size_t>(variable.conditional)];
      require(own.num_params == 1 && own.units == 1 && own.encoding == Encoding::number,
              "variables that are drawn over their parameters must have one each");
      require(variable.x_slot == shape_.x_slot + static_cast<int64_t>(place),
              "variables that are drawn over their parameters must follow one another");
    }
  }

  void check_affine(const AffineSource& affine) const {
    require(inside(affine.first_slot, affine.num_rows, shape_.num_slots), "rows of affines must lie in slots");
    for (int64_t column = 0; column < affine.num_columns; ++column)
      require(inside(affine.slots[column], 1, units_), "columns of affines must be slots");
    const int64_t width = std::accumulate(affine.widths.begin(), affine.widths.end(), int64_t{0});
    for (int64_t column = 0; column < affine.num_columns; ++column)
      require(inside(affine.columns[column], 1, width), "columns of affines must be those of their weights");
    for (int64_t row = 0; row < affine.num_rows; ++row)
      require(inside(affine.rows[row], 1, affine.height), "rows of affines must be those of their weights");
    for (int64_t row = 0; row < affine.num_rows; ++row)
      require(inside(0, affine.needed[row], affine.num_columns) && inside(0, affine.ready[row], affine.num_columns),
              "rows of affines must need leading columns");
  }

  void check_step(const Step& step) const {
    if (step.kind == Kind::draw) {
      require(inside(step.first, step.count, shape_.features), "steps must draw variables");
      return;
    }
    require(inside(step.first, step.count, shape_.num_slots), "steps must finish slots");
    if (step.kind == Kind::affine) {
      require(inside(step.left, 1, static_cast<int64_t>(source_.affines.size())), "steps must name one of the affines");
      const AffineSource& affine = source_.affines[static_cast<size_t>(step.left)];
      require(inside(step.first - affine.first_slot, step.count, affine.num_rows), "steps must finish rows of affines");
      return;
    }
    require(inside(step.left, step.count, shape_.num_slots), "steps must read slots");
    if (step.kind != Kind::unary) require(inside(step.right, step.count, shape_.num_slots), "steps must read slots");
  }

  // A panel is begun with its first row, and a category is looked up where it was drawn: before that there is none.
  // What is multiplied too early is nan, and shows.
  void check_order() const {
    std::vector<size_t> place_of;  // of units behind the slots
    for (size_t place = 0; place < source_.variables.size(); ++place) {
      const Variable& variable = source_.variables[place];
      if (variable.x_slot < shape_.num_slots) continue;
      const int32_t units = source_.conditionals[static_cast<size_t>(variable.conditional)].units;
      place_of.insert(place_of.end(), static_cast<size_t>(units), place);
    }
    std::vector<bool> is_drawn(source_.variables.size(), false);
    std::vector<int64_t> next(source_.affines.size(), 0), known(next);  // row; leading columns that are there
    for (const Step& step : source_.steps) {
      if (step.kind == Kind::draw) std::fill_n(is_drawn.begin() + step.first, step.count, true);
      if (step.kind != Kind::affine) continue;
      const auto number = static_cast<size_t>(step.left);
      const AffineSource& affine = source_.affines[number];
      require(step.first == affine.first_slot + next[number], "steps must finish the rows of an affine in their order");
      for (const int64_t end = next[number] + step.count; next[number] < end; ++next[number])
        for (; known[number] < std::min(affine.ready[next[number]], affine.needed[next[number]]); ++known[number]) {
          const int64_t unit = affine.slots[known[number]] - shape_.num_slots;
          require(unit < 0 || is_drawn[place_of[static_cast<size_t>(unit)]],
                  "variables must be drawn before they are looked up");
        }
    }
  }

  const PlanSource<T>& source_;
  const Shape& shape_;
  int64_t looked_up_ = 0, units_ = 0;  // units behind the slots; with the slots
};

}  // namespace

template <class T>
void check_source(const PlanSource<T>& source) {
  SourceCheck<T>(source).run();
}

template void check_source(const PlanSource<float>&);
template void check_source(const PlanSource<double>&);

}  // namespace made_fast
