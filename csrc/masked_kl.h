// Per-row statistics of two rows of logits and their gradient. Knows nothing of torch.
//
// A row holds V logits of the policy and, optionally, of the reference. Outputs are natural logarithms, float32.
// Every function works on rows [begin, end), so that the caller decides about threads.
#pragma once

#include <cstdint>

namespace sparsepo {

enum class Element : int { kFloat32 = 0, kBFloat16 = 1 };

// The distribution the log-ratio is averaged under: kPolicy gives KL(pi || ref), kReference gives -KL(ref || pi).
enum class Form : int { kNone = 0, kPolicy = 1, kReference = 2 };

struct ForwardArgs {
  const void* policy;      // [rows, vocabulary]
  const void* reference;   // [rows, vocabulary] or null
  const int64_t* labels;   // [rows]
  int64_t vocabulary;
  Element element;
  Form form;
  float* policy_lse;       // [rows] log-sum-exp of the policy's logits
  float* reference_lse;    // [rows] or null
  float* policy_logp;      // [rows] log-probability of the label
  float* reference_logp;   // [rows] or null
  float* divergence;       // [rows] or null
};

struct BackwardArgs {
  const void* policy;      // [rows, vocabulary] logits
  void* gradient;          // [rows, vocabulary], may be `policy` itself
  const void* reference;   // [rows, vocabulary] or null
  const int64_t* labels;
  int64_t vocabulary;
  Element element;
  Form form;
  const float* policy_lse;
  const float* reference_lse;
  const float* divergence;
  const float* grad_logp;        // [rows] upstream gradient of policy_logp
  const float* grad_divergence;  // [rows] or null
};

struct Kernels {
  const char* name;  // instruction set
  void (*forward)(const ForwardArgs&, int64_t begin, int64_t end);
  void (*backward)(const BackwardArgs&, int64_t begin, int64_t end);
};

// The fastest kernels this processor runs. `wanted` ("avx512", "avx2", "portable") asks for one by name; null if the
// processor does not have it.
const Kernels* select_kernels(const char* wanted = nullptr);

}  // namespace sparsepo
