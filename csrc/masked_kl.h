// Statistics of rows of logits, folded tile by tile over the vocabulary, and their gradient. Knows nothing of torch.
//
// A tile holds `width` products of hidden row and head, of each row from vocabulary entry `first` on, of the policy and,
// optionally, of the reference. Mapped they are logits. A forward call folds one tile into the rows' states; when every
// tile has been folded, the states hold the sums over the whole vocabulary, and a backward call turns any tile of
// products into their gradient.
#pragma once

#include <cstdint>
#include <limits>

namespace sparsepo {

enum class Element : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// Makes the logit z = cap tanh(scale x / cap) of a product x, in float32: scale x where the cap is infinite.
struct LogitMap {
  float scale = 1, cap = std::numeric_limits<float>::infinity();
  float ratio = scale / cap;  // tanh is of ratio x
};

inline bool is_plain(const LogitMap& map) {
  return map.scale == 1 && map.cap == std::numeric_limits<float>::infinity();
}

// The distribution the log-ratio is averaged under: kPolicy gives KL(pi || ref), kReference gives -KL(ref || pi).
// kAlpha is for the divergence made of the sum of pi^alpha ref^(1 - alpha), alpha between 0 and 1.
enum class Form : int { kNone = 0, kPolicy = 1, kReference = 2, kAlpha = 3 };

// Sums are over the entries folded so far. A row starts with both tops at -infinity and the rest at 0.
struct RowState {
  double policy_top;       // largest logit
  double policy_sum;       // sum of exp(z - policy_top)
  double policy_label;     // the label's logit
  double reference_top;
  double reference_sum;
  double reference_label;
  double ratio_sum;        // sum of exp(z - top) (z - y) of the form's distribution; z policy, y reference logits; of
                           // kAlpha, sum of exp(alpha (z - policy_top) + (1 - alpha) (y - reference_top))
  double square_sum;       // sum of exp(2 (z - policy_top)), where it is wanted
};

struct ForwardArgs {
  const void* policy;      // [rows, width]
  const void* reference;   // [rows, width] or null
  const int64_t* labels;   // [rows], entries of the whole vocabulary
  int64_t width;
  int64_t first;
  Element element;
  Form form;               // kNone without a reference
  RowState* state;         // [rows]
  LogitMap policy_map, reference_map;
  float alpha;             // of kAlpha
  bool squares;            // whether square_sum is wanted
};

struct BackwardArgs {
  const void* policy;      // [rows, width]
  void* gradient;          // [rows, width], may be `policy` itself
  const void* reference;   // [rows, width], null for kNone
  const int64_t* labels;
  int64_t width;
  int64_t first;
  Element element;
  Form form;               // of the divergence that has an upstream gradient
  const RowState* state;         // [rows], of the whole vocabulary
  const float* grad_logp;        // [rows] upstream gradient of the label's log-probability
  const float* grad_divergence;  // [rows], null for kNone
  LogitMap policy_map, reference_map;
  float alpha;             // of kAlpha
};

// Whether every product of a tile is its logit. A reference that is not read does not count.
template <typename Args>
bool is_plain(const Args& args) {
  return is_plain(args.policy_map) && (args.reference == nullptr || is_plain(args.reference_map));
}

// Every function works on rows [begin, end), so that the caller decides about threads.
struct Kernels {
  const char* name;  // instruction set
  void (*forward)(const ForwardArgs&, int64_t begin, int64_t end);
  void (*backward)(const BackwardArgs&, int64_t begin, int64_t end);
};

// The fastest kernels this processor runs. `wanted` ("avx512", "avx2", "portable") asks for one by name; null if the
// processor does not have it. They take float32 and bfloat16.
const Kernels* select_kernels(const char* wanted = nullptr);

}  // namespace sparsepo
