// Joins the CUDA kernels to torch, on machines with a CUDA build of it. binding_cpu.cpp declares the operators.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "binding.h"
#include "masked_kl_cuda.h"

namespace {

using namespace sparsepo;

CudaElement element_of(const Tensor& logits) {
  switch (logits.scalar_type()) {
    case at::kFloat: return CudaElement::kFloat32;
    case at::kBFloat16: return CudaElement::kBFloat16;
    case at::kHalf: return CudaElement::kFloat16;
    default: TORCH_CHECK(false, "masked_kl: logits must be float32, bfloat16 or float16, got ", logits.scalar_type());
  }
}

Stats chunk_forward(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, int64_t form) {
  check_chunk(policy, reference, labels);
  const c10::cuda::CUDAGuard guard(policy.device());
  const Stats stats = empty_stats(policy, reference, form);
  const ForwardArgs args = forward_args(policy, reference, labels, form, stats, Element::kFloat32);
  C10_CUDA_CHECK(cuda_forward(args, element_of(policy), policy.size(0), c10::cuda::getCurrentCUDAStream()));
  return stats;
}

void chunk_backward(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, const Tensor& lse,
                    const Tensor& ref_lse, const Tensor& divergence, const Tensor& grad_logp,
                    const MaybeTensor& grad_divergence, int64_t form, Tensor gradient) {
  const c10::cuda::CUDAGuard guard(policy.device());
  const BackwardArgs args = backward_args(policy, reference, labels, lse, ref_lse, divergence, grad_logp,
                                          grad_divergence, form, gradient, Element::kFloat32);
  C10_CUDA_CHECK(cuda_backward(args, element_of(policy), policy.size(0), c10::cuda::getCurrentCUDAStream()));
}

}  // namespace

TORCH_LIBRARY_IMPL(sparsepo_kernels, CUDA, m) {
  m.impl("chunk_forward", &chunk_forward);
  m.impl("chunk_backward", &chunk_backward);
}
