// Joins the CUDA kernels to torch, on machines with a CUDA build of it. binding_cpu.cpp declares the operators.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "binding.h"
#include "masked_kl_cuda.h"

namespace {

using namespace sparsepo;

void tile_forward(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, int64_t first,
                  Map policy_map, Map reference_map, int64_t form, double alpha, bool squares, Tensor state) {
  const c10::cuda::CUDAGuard guard(policy.device());
  const ForwardArgs args = forward_args(policy, reference, labels, first, policy_map, reference_map, form, alpha,
                                        squares, state);
  C10_CUDA_CHECK(cuda_forward(args, policy.size(0), c10::cuda::getCurrentCUDAStream()));
}

void tile_backward(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, int64_t first,
                   Map policy_map, Map reference_map, int64_t form, double alpha, const Tensor& state,
                   const Tensor& grad_logp, const MaybeTensor& grad_divergence, Tensor gradient) {
  const c10::cuda::CUDAGuard guard(policy.device());
  const BackwardArgs args = backward_args(policy, reference, labels, first, policy_map, reference_map, form, alpha,
                                          state, grad_logp, grad_divergence, gradient);
  C10_CUDA_CHECK(cuda_backward(args, policy.size(0), c10::cuda::getCurrentCUDAStream()));
}

}  // namespace

TORCH_LIBRARY_IMPL(sparsepo_kernels, CUDA, m) {
  m.impl("tile_forward", &tile_forward);
  m.impl("tile_backward", &tile_backward);
}
