// A check that needs no torch: every kernel against long double, in buffers of exactly the size of their data, so that
// AddressSanitizer sees any step outside of them. Prints the largest errors; exits 1 where one is out of bounds.
#include "masked_kl.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

using namespace sparsepo;

uint16_t narrowed(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

float widened(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// What the kernels read and write, and the float it stands for.
struct Float32 {
  using Type = float;
  static constexpr Element kElement = Element::kFloat32;
  static constexpr double kBound = 1e-5;
  static float from(float value) { return value; }
  static float to(float value) { return value; }
};

struct BFloat16 {
  using Type = uint16_t;
  static constexpr Element kElement = Element::kBFloat16;
  static constexpr double kBound = 1.0 / 256;  // one rounding of the gradient
  static uint16_t from(float value) { return narrowed(value); }
  static float to(uint16_t value) { return widened(value); }
};

float uniform() { return static_cast<float>(std::rand()) / RAND_MAX * 12 - 6; }

double worst(double now, double got, double want) {
  const double error = std::fabs(got - want) / (1 + std::fabs(want));
  return error <= now ? now : error;  // NaN counts as worst
}

template <typename Real>
std::vector<typename Real::Type> columns(const std::vector<float>& rows, int64_t count, int64_t width, int64_t first,
                                         int64_t last) {
  std::vector<typename Real::Type> tile;
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = first; i < last; ++i) tile.push_back(Real::from(rows[row * width + i]));
  }
  tile.shrink_to_fit();
  return tile;
}

constexpr float kAlpha = 0.25f;

struct Maps {
  LogitMap policy = {}, reference = {};
};

long double logit(const LogitMap& map, float x) {
  return is_plain(map) ? x : map.cap * tanhl(static_cast<long double>(map.scale) * x / map.cap);
}

template <typename Real>
double check(const Kernels& kernels, int64_t rows, int64_t vocabulary, int64_t width, Form form, const Maps& maps) {
  std::vector<float> policy(rows * vocabulary), reference(rows * vocabulary), grad(rows, 0.75f), grad_v(rows, -1.5f);
  std::vector<int64_t> labels(rows);
  std::vector<RowState> states(rows, RowState{-INFINITY, 0, 0, -INFINITY, 0, 0, 0, 0});
  for (auto& x : policy) x = Real::to(Real::from(uniform()));
  for (auto& x : reference) x = Real::to(Real::from(uniform()));
  for (auto& label : labels) label = std::rand() % vocabulary;
  const auto for_tiles = [&](const auto& body) {
    for (int64_t first = 0; first < vocabulary; first += width) body(first, std::min(first + width, vocabulary));
  };
  for_tiles([&](int64_t first, int64_t last) {
    const auto z = columns<Real>(policy, rows, vocabulary, first, last), y = columns<Real>(reference, rows, vocabulary, first, last);
    kernels.forward({z.data(), y.data(), labels.data(), last - first, first, Real::kElement, form, states.data(),
                     maps.policy, maps.reference, kAlpha, true}, 0, rows);
  });
  std::vector<float> gradient(rows * vocabulary);
  for_tiles([&](int64_t first, int64_t last) {
    auto z = columns<Real>(policy, rows, vocabulary, first, last);
    const auto y = columns<Real>(reference, rows, vocabulary, first, last);
    kernels.backward({z.data(), z.data(), form == Form::kNone ? nullptr : y.data(), labels.data(), last - first, first,
                      Real::kElement, form, states.data(), grad.data(), form == Form::kNone ? nullptr : grad_v.data(),
                      maps.policy, maps.reference, kAlpha}, 0, rows);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = first; i < last; ++i) {
        gradient[row * vocabulary + i] = Real::to(z[row * (last - first) + i - first]);
      }
    }
  });
  double error = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const auto z = [&](int64_t i) { return logit(maps.policy, policy[row * vocabulary + i]); };
    const auto y = [&](int64_t i) { return logit(maps.reference, reference[row * vocabulary + i]); };
    const RowState& state = states[row];
    long double sum = 0, other = 0, expected = 0, mixed = 0, squares = 0;
    for (int64_t i = 0; i < vocabulary; ++i) sum += expl(z(i)), other += expl(y(i));
    const auto log_p = [&](int64_t i) { return z(i) - logl(sum); };
    const auto log_r = [&](int64_t i) { return y(i) - logl(other); };
    for (int64_t i = 0; i < vocabulary; ++i) {
      expected += expl(form == Form::kPolicy ? log_p(i) : log_r(i)) * (log_p(i) - log_r(i));
      mixed += expl(kAlpha * log_p(i) + (1 - kAlpha) * log_r(i));
      squares += expl(2 * log_p(i));
    }
    const double lse = state.policy_top + std::log(state.policy_sum);
    const double ref_lse = state.reference_top + std::log(state.reference_sum);
    error = worst(error, state.policy_label - lse, static_cast<double>(log_p(labels[row])));
    error = worst(error, state.reference_label - ref_lse, static_cast<double>(log_r(labels[row])));
    error = worst(error, state.square_sum / (state.policy_sum * state.policy_sum), static_cast<double>(squares));
    if (form == Form::kAlpha) {
      const double weight = std::pow(state.policy_sum, kAlpha) * std::pow(state.reference_sum, 1 - kAlpha);
      error = worst(error, state.ratio_sum / weight, static_cast<double>(mixed));
    } else if (form != Form::kNone) {
      const double weight = form == Form::kPolicy ? state.policy_sum : state.reference_sum;
      error = worst(error, state.ratio_sum / weight - lse + ref_lse, static_cast<double>(expected));
    }
    for (int64_t i = 0; i < vocabulary; ++i) {
      const long double p = expl(log_p(i)), r = expl(log_r(i));
      long double want = 0.75L * ((i == labels[row]) - p);
      if (form == Form::kPolicy) want += -1.5L * p * (log_p(i) - log_r(i) - expected);
      if (form == Form::kReference) want += -1.5L * (r - p);
      if (form == Form::kAlpha) want += -1.5L * (mixed * p - expl(kAlpha * log_p(i) + (1 - kAlpha) * log_r(i))) / (1 - kAlpha);
      const long double t = z(i) / maps.policy.cap;
      want *= maps.policy.scale * (1 - t * t);
      error = worst(error, gradient[row * vocabulary + i], static_cast<double>(want));
    }
  }
  return error;
}

template <typename Real>
bool sound(const Kernels& kernels, const char* element) {
  double error = 0;
  for (const int64_t vocabulary : {1, 2, 15, 16, 17, 31, 33, 127, 2049, 5003}) {
    for (const int64_t width : {vocabulary, int64_t{1000}}) {
      for (const Form form : {Form::kNone, Form::kPolicy, Form::kReference, Form::kAlpha}) {
        for (const Maps& maps : {Maps{}, Maps{{1, 4}, {0.5f, 3}}}) {
          const double found = check<Real>(kernels, 3, vocabulary, width, form, maps);
          error = found <= error ? error : found;
        }
      }
    }
  }
  std::printf("%s, %s: largest error %.2e\n", kernels.name, element, error);
  return error < Real::kBound;
}

}  // namespace

int main() {
  bool all_sound = true;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    const Kernels* kernels = select_kernels(name);
    if (kernels == nullptr) {
      std::printf("%s: not on this processor\n", name);
      continue;
    }
    all_sound &= sound<Float32>(*kernels, "float32");
    all_sound &= sound<BFloat16>(*kernels, "bfloat16");
  }
  return all_sound ? 0 : 1;
}
