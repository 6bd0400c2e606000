// A check that needs no torch: every kernel against long double, and exact buffers for valgrind or AddressSanitizer.
#include "masked_kl.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

using namespace sparsepo;

float uniform() { return static_cast<float>(std::rand()) / RAND_MAX * 12 - 6; }

double worst(double now, double got, double want) { return std::fmax(now, std::fabs(got - want) / (1 + std::fabs(want))); }

double check(const Kernels& kernels, int64_t rows, int64_t vocabulary, Form form) {
  std::vector<float> policy(rows * vocabulary), reference(rows * vocabulary), lse(rows), ref_lse(rows), logp(rows),
      ref_logp(rows), v(rows), grad(rows, 0.75f), grad_v(rows, -1.5f);
  std::vector<int64_t> labels(rows);
  for (auto& x : policy) x = uniform();
  for (auto& x : reference) x = uniform();
  for (auto& label : labels) label = std::rand() % vocabulary;
  kernels.forward({policy.data(), reference.data(), labels.data(), vocabulary, Element::kFloat32, form, lse.data(),
                   ref_lse.data(), logp.data(), ref_logp.data(), v.data()}, 0, rows);
  std::vector<float> gradient = policy;
  kernels.backward({gradient.data(), gradient.data(), reference.data(), labels.data(), vocabulary, Element::kFloat32, form, lse.data(),
                    ref_lse.data(), v.data(), grad.data(), form == Form::kNone ? nullptr : grad_v.data()}, 0, rows);
  double error = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const float *z = &policy[row * vocabulary], *y = &reference[row * vocabulary];
    long double sum = 0, other = 0, expected = 0;
    for (int64_t i = 0; i < vocabulary; ++i) sum += expl(z[i]), other += expl(y[i]);
    const auto log_p = [&](int64_t i) { return z[i] - logl(sum); };
    const auto log_r = [&](int64_t i) { return y[i] - logl(other); };
    for (int64_t i = 0; i < vocabulary; ++i) {
      expected += expl(form == Form::kPolicy ? log_p(i) : log_r(i)) * (log_p(i) - log_r(i));
    }
    error = worst(error, logp[row], static_cast<double>(log_p(labels[row])));
    error = worst(error, ref_logp[row], static_cast<double>(log_r(labels[row])));
    if (form != Form::kNone) error = worst(error, v[row], static_cast<double>(expected));
    for (int64_t i = 0; i < vocabulary; ++i) {
      const long double p = expl(log_p(i)), r = expl(log_r(i));
      long double want = 0.75L * ((i == labels[row]) - p);
      if (form == Form::kPolicy) want += -1.5L * p * (log_p(i) - log_r(i) - expected);
      if (form == Form::kReference) want += -1.5L * (r - p);
      error = worst(error, gradient[row * vocabulary + i], static_cast<double>(want));
    }
  }
  return error;
}

}  // namespace

int main() {
  int failed = 0;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    const Kernels* kernels = select_kernels(name);
    if (kernels == nullptr) {
      std::printf("%s: not on this processor\n", name);
      continue;
    }
    double error = 0;
    for (const int64_t vocabulary : {1, 2, 15, 16, 17, 31, 33, 127, 2049, 5003}) {
      for (const Form form : {Form::kNone, Form::kPolicy, Form::kReference}) {
        error = std::fmax(error, check(*kernels, 3, vocabulary, form));
      }
    }
    std::printf("%s: largest error %.2e\n", name, error);
    failed += !(error < 1e-5);
  }
  return failed;
}
