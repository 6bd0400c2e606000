// Declares the operators and joins the CPU kernels to torch; the Python caller has checked shapes and labels.
#include <ATen/Parallel.h>

#include "binding.h"

namespace {

using namespace sparsepo;

const Kernels*& kernels() {
  static const Kernels* chosen = select_kernels();
  return chosen;
}

Element element_of(const Tensor& logits) {
  TORCH_CHECK(logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kBFloat16,
              "masked_kl: logits on the CPU must be float32 or bfloat16, got ", logits.scalar_type());
  return logits.scalar_type() == at::kFloat ? Element::kFloat32 : Element::kBFloat16;
}

Stats chunk_forward(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, int64_t form) {
  check_chunk(policy, reference, labels);
  const Stats stats = empty_stats(policy, reference, form);
  const ForwardArgs args = forward_args(policy, reference, labels, form, stats, element_of(policy));
  at::parallel_for(0, policy.size(0), 1, [&](int64_t begin, int64_t end) { kernels()->forward(args, begin, end); });
  return stats;
}

void chunk_backward(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, const Tensor& lse,
                    const Tensor& ref_lse, const Tensor& divergence, const Tensor& grad_logp,
                    const MaybeTensor& grad_divergence, int64_t form, Tensor gradient) {
  const BackwardArgs args = backward_args(policy, reference, labels, lse, ref_lse, divergence, grad_logp,
                                          grad_divergence, form, gradient, element_of(policy));
  at::parallel_for(0, policy.size(0), 1, [&](int64_t begin, int64_t end) { kernels()->backward(args, begin, end); });
}

std::string instruction_set() { return kernels()->name; }

void use_instruction_set(std::string name) {
  const Kernels* found = select_kernels(name.empty() ? nullptr : name.c_str());
  TORCH_CHECK(found != nullptr, "masked_kl: this processor has no ", name, " kernels");
  kernels() = found;
}

}  // namespace

TORCH_LIBRARY(sparsepo_kernels, m) {
  m.def("chunk_forward(Tensor policy, Tensor? reference, Tensor labels, int form) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("chunk_backward(Tensor policy, Tensor? reference, Tensor labels, Tensor lse, Tensor ref_lse, "
        "Tensor divergence, Tensor grad_logp, Tensor? grad_divergence, int form, Tensor(a!) gradient) -> ()");
  m.def("instruction_set() -> str", &instruction_set);
  m.def("use_instruction_set(str name) -> ()", &use_instruction_set);
}

TORCH_LIBRARY_IMPL(sparsepo_kernels, CPU, m) {
  m.impl("chunk_forward", &chunk_forward);
  m.impl("chunk_backward", &chunk_backward);
}
