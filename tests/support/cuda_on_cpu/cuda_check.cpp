// Compares csrc/masked_kl_cuda.cu, run on a CPU, with the formulas written out in long double. Exits 1 beyond bounds.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "masked_kl_cuda.h"

namespace {

using namespace sparsepo;
using Real = long double;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr Real kForwardBound = 1e-5L;  // of 1 + |wanted|
constexpr float kAlphaValue = 0.25f;

float widen(float value) { return value; }
float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
float widen(__half value) { return __half2float(value); }

template <typename T>
T narrow(float value) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(value);
  else if constexpr (std::is_same_v<T, __half>) return __float2half_rn(value);
  else return value;
}

template <typename T> constexpr Element kElement = Element::kFloat32;
template <> constexpr Element kElement<__nv_bfloat16> = Element::kBFloat16;
template <> constexpr Element kElement<__half> = Element::kFloat16;

// A gradient's bound: a share of itself, a share of the terms it is the sum of, and half the smallest number.
struct Bound { Real rounding, terms, least; };
template <typename T> constexpr Bound kBound = {0, 1e-5L, 1e-30L};
template <> constexpr Bound kBound<__nv_bfloat16> = {0x1p-8L, 2e-6L, 1e-30L};
template <> constexpr Bound kBound<__half> = {0x1p-11L, 2e-6L, 0x1p-25L};

enum class Fill {
  kNormal, kRising, kHuge, kOneHot, kEqual, kShifted,
  kMasked, kFirstTileMasked, kOnlyPolicyMasked, kOnlyReferenceMasked, kVanishing,  // some entries are special
};

struct Offsets { size_t policy, reference, gradient; };  // of the base pointers, in elements

struct Case {
  int64_t rows;
  std::vector<int64_t> widths;  // of the tiles
  Fill fill = Fill::kNormal;
  Offsets offsets = {0, 0, 0};
  LogitMap policy_map = {}, reference_map = {};
};

struct Worst { Real forward = 0, gradient = 0, share = 0; };

std::mt19937 generator(1);
float normal(float scale) { return std::normal_distribution<float>(0.f, scale)(generator); }
int64_t below(int64_t n) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(n)); }
bool failed = false;

void note(Real& worst, Real error) { worst = error >= 0 && error <= worst ? worst : error; }  // a NaN is the worst

template <typename T>
class Check {
 public:
  Check(const Case& one, Form form, bool has_reference, bool squares)
      : one_(one), form_(form), has_reference_(has_reference), squares_(squares), columns_(0) {
    for (const int64_t width : one.widths) columns_ += width;
    fill();
  }

  Worst run() {
    forward();
    for (const bool in_place : {false, true}) backward(in_place);
    return worst_;
  }

 private:
  bool is_special(int64_t i) const {
    const bool one_tile = one_.widths.size() == 1;
    if (one_.fill == Fill::kFirstTileMasked && !one_tile) return i < one_.widths[0];
    if (one_.fill == Fill::kVanishing && one_tile) return i < columns_ / 2;
    if (one_.fill == Fill::kVanishing) return i < one_.widths[0] || i >= columns_ - one_.widths.back();
    return i % 3 != 1;
  }

  void fill() {
    z_.resize(one_.rows * columns_);
    y_.resize(z_.size());
    for (int64_t row = 0; row < one_.rows; ++row) {
      const Fill fill = one_.fill;
      int64_t label = below(columns_);
      while (fill >= Fill::kMasked && is_special(label)) label = below(columns_);
      labels_.push_back(label);
      for (int64_t i = 0; i < columns_; ++i) {
        float z = normal(3.f), y = normal(3.f);
        if (fill == Fill::kRising) z += i * 60.f / columns_, y += i * 40.f / columns_;
        if (fill == Fill::kHuge) z = normal(1.f) > 0 ? 1e4f : -1e4f, y = normal(1.f) > 0 ? 1e4f : -1e4f;
        if (fill == Fill::kOneHot) z = i == columns_ / 2 ? 0.f : -1e4f, y = i == columns_ / 3 ? 0.f : -20.f;
        if (fill == Fill::kEqual) y = z;
        if (fill == Fill::kShifted) y = z - 1000.f + normal(0.1f);
        const bool special = is_special(i);
        if (special && (fill == Fill::kMasked || fill == Fill::kFirstTileMasked)) z = y = -kInfinity;
        if (special && fill == Fill::kOnlyPolicyMasked) z = -kInfinity;
        if (special && fill == Fill::kOnlyReferenceMasked) y = -kInfinity;
        // Infinite ratios, of no weight once the row's top is known.
        if (special && fill == Fill::kVanishing) (form_ == Form::kReference ? y : z) = -2e4f;
        if (special && fill == Fill::kVanishing) (form_ == Form::kReference ? z : y) = -kInfinity;
        z_[row * columns_ + i] = widen(narrow<T>(z));
        y_[row * columns_ + i] = widen(narrow<T>(y));
      }
    }
  }

  static Real mapped(const LogitMap& map, Real x) {
    return map.cap < kInfinity ? map.cap * std::tanh(map.scale * x / map.cap) : map.scale * x;
  }
  Real policy_logit(int64_t k) const { return mapped(one_.policy_map, z_[k]); }
  Real reference_logit(int64_t k) const { return mapped(one_.reference_map, y_[k]); }

  // Of a policy's logit with respect to its product.
  Real slope(int64_t k) const {
    const LogitMap& map = one_.policy_map;
    const Real hyperbolic = map.cap < kInfinity ? std::cosh(map.scale * static_cast<Real>(z_[k]) / map.cap) : 1;
    return map.scale / hyperbolic / hyperbolic;
  }

  // A tile's elements behind `offset` others, in a buffer of exactly that size.
  std::vector<T> tile(const std::vector<float>& matrix, int64_t first, int64_t width, size_t offset) const {
    std::vector<T> result(offset + one_.rows * width, narrow<T>(7.f));
    for (int64_t k = 0; k < one_.rows * width; ++k) {
      result[offset + k] = narrow<T>(matrix[k / width * columns_ + first + k % width]);
    }
    result.shrink_to_fit();
    return result;
  }

  void forward() {
    state_.assign(one_.rows, {-kInfinity, 0, 0, -kInfinity, 0, 0, 0, 0});
    int64_t first = 0;
    for (const int64_t width : one_.widths) {
      const std::vector<T> policy = tile(z_, first, width, one_.offsets.policy);
      const std::vector<T> reference = tile(y_, first, width, one_.offsets.reference);
      const ForwardArgs args = {policy.data() + one_.offsets.policy,
                                has_reference_ ? reference.data() + one_.offsets.reference : nullptr,
                                labels_.data(), width, first, kElement<T>, form_, state_.data(), one_.policy_map, one_.reference_map,
                                kAlphaValue, squares_};
      if (cuda_forward(args, one_.rows, nullptr) != cudaSuccess) fail("cuda_forward returned an error");
      first += width;
    }
    for (int64_t row = 0; row < one_.rows; ++row) check_state(row);
  }

  void check_state(int64_t row) {
    const auto z = [&](int64_t i) { return policy_logit(row * columns_ + i); };
    const auto y = [&](int64_t i) { return reference_logit(row * columns_ + i); };
    RowState top = {-kInfinity, 0, static_cast<double>(z(labels_[row])), -kInfinity, 0, 0, 0, 0};
    for (int64_t i = 0; i < columns_; ++i) {
      top.policy_top = std::max<double>(top.policy_top, z(i));
      if (has_reference_) top.reference_top = std::max<double>(top.reference_top, y(i));
    }
    if (has_reference_) top.reference_label = y(labels_[row]);
    if (!is_plain(one_.policy_map) || !is_plain(one_.reference_map)) take_tops(top, state_[row]);
    Real policy_sum = 0, reference_sum = 0, ratio_sum = 0, square_sum = 0;
    for (int64_t i = 0; i < columns_; ++i) {
      const Real p = std::exp(z(i) - top.policy_top);
      const Real r = has_reference_ ? std::exp(y(i) - top.reference_top) : 0;
      const Real weight = form_ == Form::kPolicy ? p : form_ == Form::kReference ? r : 0;
      policy_sum += p;
      reference_sum += r;
      if (weight > 0) ratio_sum += weight * (z(i) - y(i));
      if (form_ == Form::kAlpha && p > 0 && r > 0) {
        ratio_sum += std::exp(kAlphaValue * (z(i) - top.policy_top) + (1 - Real(kAlphaValue)) * (y(i) - top.reference_top));
      }
      if (squares_) square_sum += p * p;
    }
    want_.push_back({policy_sum, reference_sum, ratio_sum});
    const RowState& got = state_[row];
    if (got.policy_top != top.policy_top || got.reference_top != top.reference_top ||
        got.policy_label != top.policy_label || got.reference_label != top.reference_label) {
      fail("a top or a label's logit is wrong");
    }
    if (one_.fill == Fill::kEqual && got.ratio_sum != (form_ == Form::kAlpha ? got.policy_sum : 0)) {
      fail("equal models diverge");
    }
    forward_error(got.policy_sum, policy_sum);
    forward_error(got.reference_sum, reference_sum);
    forward_error(got.square_sum, square_sum);
    if (form_ == Form::kAlpha) return forward_error(got.ratio_sum, ratio_sum);
    if (form_ == Form::kNone) return forward_error(got.ratio_sum, ratio_sum);
    // Ratios may cancel where a map makes a row flat: they are added up with these weights.
    forward_error(got.ratio_sum, ratio_sum, form_ == Form::kPolicy ? policy_sum : reference_sum);
    // What the sums are for: digits lost to an offset between the models would show here.
    const auto divergence = [&](Real policy, Real reference, Real ratio) {
      return ratio / (form_ == Form::kPolicy ? policy : reference) - (top.policy_top - top.reference_top) -
             std::log(policy / reference);
    };
    forward_error(divergence(got.policy_sum, got.reference_sum, got.ratio_sum),
                  divergence(policy_sum, reference_sum, ratio_sum));
  }

  // Logits that a map made have roundings of their own: small ones are accepted, and sums are compared below what was got.
  void take_tops(RowState& want, const RowState& got) {
    for (const auto field : {&RowState::policy_top, &RowState::policy_label, &RowState::reference_top,
                             &RowState::reference_label}) {
      if (got.*field == want.*field) continue;
      forward_error(got.*field, want.*field);
      want.*field = got.*field;
    }
  }

  void forward_error(Real got, Real want, Real least = 1) {
    if (got == want) return;
    const Real error = std::abs(got - want) / (least + std::abs(want));
    note(worst_.forward, error);
    if (!(error <= kForwardBound)) fail("forward: " + std::to_string(got) + " instead of " + std::to_string(want));
  }

  void backward(bool in_place) {
    std::vector<float> grad_logp, grad_divergence, y = y_;
    std::vector<RowState> state = state_;
    for (int64_t row = 0; row < one_.rows; ++row) {
      grad_logp.push_back(normal(1.f));
      grad_divergence.push_back(row % 3 == 2 ? 0.f : normal(1.f));
      if (grad_divergence.back() != 0.f) continue;
      // Nothing of the reference may be used here.
      state[row].reference_top = state[row].reference_sum = state[row].ratio_sum = kNan;
      for (int64_t i = 0; i < columns_; ++i) y[row * columns_ + i] = static_cast<float>(kNan);
    }
    const bool diverges = form_ != Form::kNone;
    const size_t offset = in_place ? one_.offsets.policy : one_.offsets.gradient;
    int64_t first = 0;
    for (const int64_t width : one_.widths) {
      std::vector<T> policy = tile(z_, first, width, one_.offsets.policy);
      std::vector<T> other(offset + one_.rows * width, narrow<T>(7.f));
      const std::vector<T> reference = tile(y, first, width, one_.offsets.reference);
      std::vector<T>& gradient = in_place ? policy : other;
      const BackwardArgs args = {policy.data() + one_.offsets.policy, gradient.data() + offset,
                                 diverges ? reference.data() + one_.offsets.reference : nullptr, labels_.data(), width,
                                 first, kElement<T>, form_, state.data(), grad_logp.data(),
                                 diverges ? grad_divergence.data() : nullptr, one_.policy_map, one_.reference_map,
                                 kAlphaValue};
      if (cuda_backward(args, one_.rows, nullptr) != cudaSuccess) fail("cuda_backward returned an error");
      for (size_t i = 0; i < offset; ++i) {
        if (widen(gradient[i]) != 7.f) fail("a gradient lies before its tile");
      }
      for (int64_t k = 0; k < one_.rows * width; ++k) {
        const int64_t row = k / width;
        check_gradient(row, first + k % width, grad_logp[row], diverges ? grad_divergence[row] : 0.f,
                       widen(gradient[offset + k]));
      }
      first += width;
    }
  }

  void check_gradient(int64_t row, int64_t i, Real gl, Real gv, Real got) {
    const int64_t k = row * columns_ + i;
    const Real z = policy_logit(k), y = reference_logit(k), onehot = i == labels_[row];
    const Real p = std::exp(z - state_[row].policy_top) / want_[row].policy_sum;
    Real want = gl * (onehot - p), terms = std::abs(gl) * (onehot + p);
    if (gv != 0 && form_ == Form::kPolicy && p > 0) {
      const Real mean = want_[row].ratio_sum / want_[row].policy_sum;
      want += gv * p * ((z - y) - mean);
      // An offset between the models is to cost no digits.
      const Real offset = state_[row].policy_top - state_[row].reference_top;
      terms += std::abs(gv) * p * (std::abs(z - y - offset) + std::abs(mean - offset));
    } else if (gv != 0 && form_ == Form::kAlpha && p > 0) {
      const Real rest = 1 - Real(kAlphaValue), power = std::pow(want_[row].policy_sum / want_[row].reference_sum, rest);
      const Real mixed = want_[row].ratio_sum / want_[row].policy_sum * power;
      const Real offset = state_[row].policy_top - state_[row].reference_top;
      const Real ratio = power * std::exp(rest * (y - z + offset));
      want += gv * p * (mixed - ratio) / rest;
      const Real rounded = ratio > 0 ? ratio * (1 + std::abs(rest * (y - z + offset))) : 0;
      terms += std::abs(gv) * p * (mixed + rounded) / rest;
    } else if (gv != 0 && form_ == Form::kReference) {
      const Real r = std::exp(y - state_[row].reference_top) / want_[row].reference_sum;
      want += gv * (r - p);
      terms += std::abs(gv) * (r + p);
    }
    want *= slope(k);
    terms *= slope(k);
    const Bound& bound = kBound<T>;
    const Real error = std::abs(got - want);
    const Real share = error / (bound.rounding * std::abs(want) + bound.terms * terms + bound.least);
    note(worst_.gradient, error / (1 + std::abs(want)));
    note(worst_.share, share);
    if (!(share <= 1)) fail("gradient: " + std::to_string(got) + " instead of " + std::to_string(want));
  }

  void fail(const std::string& what) {
    if (!failed) {
      std::printf("element %d form %d reference %d fill %d rows %lld tiles", static_cast<int>(kElement<T>),
                  static_cast<int>(form_), has_reference_, static_cast<int>(one_.fill),
                  static_cast<long long>(one_.rows));
      for (const int64_t width : one_.widths) std::printf(" %lld", static_cast<long long>(width));
      std::printf(": %s\n", what.c_str());
    }
    failed = true;
  }

  struct Sums { Real policy_sum, reference_sum, ratio_sum; };

  const Case one_;
  const Form form_;
  const bool has_reference_, squares_;
  int64_t columns_;
  std::vector<float> z_, y_;
  std::vector<int64_t> labels_;
  std::vector<RowState> state_;
  std::vector<Sums> want_;
  Worst worst_;
};

std::vector<Case> cases() {
  std::vector<Case> result;
  for (const int64_t width : {1, 2, 7, 8, 9, 15, 33, 127, 1000, 2049, 5003}) {
    result.push_back({width < 1000 ? 3 : 1, {width}});
    if (width > 2) result.push_back({2, {width / 3, 1, width - width / 3 - 1}});
  }
  for (int fill = 1; fill <= static_cast<int>(Fill::kVanishing); ++fill) {
    result.push_back({3, {257}, static_cast<Fill>(fill)});
    result.push_back({3, {67, 250, 1030}, static_cast<Fill>(fill)});
  }
  for (const Offsets offsets : {Offsets{1, 1, 1}, {3, 3, 0}, {5, 0, 5}, {0, 7, 1}}) {
    result.push_back({2, {1024, 1003}, Fill::kNormal, offsets});
  }
  const LogitMap plain, scaled = {0.0625f}, capped = {1, 30}, both = {1.5f, 4};
  for (const auto& [policy, reference] : {std::pair{scaled, plain}, {plain, capped}, {capped, both}, {both, scaled}}) {
    for (const Fill fill : {Fill::kNormal, Fill::kRising, Fill::kShifted}) {
      result.push_back({3, {67, 250, 1030}, fill, {3, 3, 0}, policy, reference});
    }
  }
  for (const LogitMap& map : {scaled, capped}) result.push_back({3, {67, 250}, Fill::kMasked, {1, 1, 1}, map, map});
  result.push_back({40, {40}});    // more rows than blocks
  result.push_back({5, {17000}});  // the same, of the most threads
  result.push_back({1, {17001}});  // a row's gradient by several blocks
  return result;
}

template <typename T>
void check_element(const char* name) {
  struct Kind { Form form; bool has_reference, squares; const char* name; };
  for (const Kind kind : {Kind{Form::kNone, false, false, "no reference"}, Kind{Form::kNone, false, true, "squares"},
                          Kind{Form::kNone, true, false, "no divergence"}, Kind{Form::kPolicy, true, false, "policy"},
                          Kind{Form::kReference, true, true, "reference"}, Kind{Form::kAlpha, true, true, "alpha"}}) {
    Worst worst;
    for (const Case& one : cases()) {
      // Infinite divergences.
      if (one.fill == Fill::kOnlyPolicyMasked && kind.form == Form::kReference) continue;
      if (one.fill == Fill::kOnlyReferenceMasked && kind.form == Form::kPolicy) continue;
      const Worst here = Check<T>(one, kind.form, kind.has_reference, kind.squares).run();
      note(worst.forward, here.forward);
      note(worst.gradient, here.gradient);
      note(worst.share, here.share);
    }
    std::printf("%-8s %-13s forward %.1Le, gradient %.1Le of 1 + |wanted|, %.2Lf of its bound\n", name, kind.name,
                worst.forward, worst.gradient, worst.share);
  }
}

}  // namespace

int main() {
  check_element<float>("float32");
  check_element<__nv_bfloat16>("bfloat16");
  check_element<__half>("float16");
  return failed ? 1 : 0;
}
