// Declares the operators and joins the CPU kernels to torch.
#include <ATen/Parallel.h>

#include "binding.h"

namespace {

using namespace sparsepo;

const Kernels*& kernels() {
  static const Kernels* chosen = select_kernels();
  return chosen;
}

void check_element(Element element) {
  TORCH_CHECK(element != Element::kFloat16, "masked_kl: logits on the CPU must be float32 or bfloat16, not float16");
}

void tile_forward(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, int64_t first,
                  Map policy_map, Map reference_map, int64_t form, double alpha, bool squares, Tensor state) {
  const ForwardArgs args = forward_args(policy, reference, labels, first, policy_map, reference_map, form, alpha,
                                        squares, state);
  check_element(args.element);
  at::parallel_for(0, policy.size(0), 1, [&](int64_t begin, int64_t end) { kernels()->forward(args, begin, end); });
}

void tile_backward(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, int64_t first,
                   Map policy_map, Map reference_map, int64_t form, double alpha, const Tensor& state,
                   const Tensor& grad_logp, const MaybeTensor& grad_divergence, Tensor gradient) {
  const BackwardArgs args = backward_args(policy, reference, labels, first, policy_map, reference_map, form, alpha,
                                          state, grad_logp, grad_divergence, gradient);
  check_element(args.element);
  at::parallel_for(0, policy.size(0), 1, [&](int64_t begin, int64_t end) { kernels()->backward(args, begin, end); });
}

std::string instruction_set() { return kernels()->name; }

// at::parallel_for is inlined here: built without OpenMP it runs on one thread, whatever torch runs on.
int64_t threads() {
#ifdef _OPENMP
  return at::get_num_threads();
#else
  return 1;
#endif
}

void use_instruction_set(std::string name) {
  const Kernels* found = select_kernels(name.empty() ? nullptr : name.c_str());
  TORCH_CHECK(found != nullptr, "masked_kl: this processor has no ", name, " kernels");
  kernels() = found;
}

}  // namespace

TORCH_LIBRARY(sparsepo_kernels, m) {
  m.def("tile_forward(Tensor policy, Tensor? reference, Tensor labels, int first, float[] policy_map, "
        "float[] reference_map, int form, float alpha, bool squares, Tensor(a!) state) -> ()");
  m.def("tile_backward(Tensor policy, Tensor? reference, Tensor labels, int first, float[] policy_map, "
        "float[] reference_map, int form, float alpha, Tensor state, Tensor grad_logp, Tensor? grad_divergence, "
        "Tensor(a!) gradient) -> ()");
  m.def("instruction_set() -> str", &instruction_set);
  m.def("threads() -> int", &threads);
  m.def("use_instruction_set(str name) -> ()", &use_instruction_set);
}

TORCH_LIBRARY_IMPL(sparsepo_kernels, CPU, m) {
  m.impl("tile_forward", &tile_forward);
  m.impl("tile_backward", &tile_backward);
}
