// What both bindings share: checks of tensors, and the kernels' arguments made of them.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include "masked_kl.h"

namespace sparsepo {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

constexpr int64_t kStateColumns = sizeof(RowState) / sizeof(double);

// The caller has checked what users can get wrong; this keeps the kernels from reading outside of what they are given.
inline void check_tile(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, const Tensor& state) {
  TORCH_CHECK(policy.dim() == 2 && policy.is_contiguous(), "masked_kl: logits must be a contiguous matrix");
  TORCH_CHECK(labels.scalar_type() == at::kLong && labels.is_contiguous() && labels.dim() == 1 &&
              labels.size(0) == policy.size(0) && labels.device() == policy.device(),
              "masked_kl: one int64 label per row, on the logits' device");
  TORCH_CHECK(state.scalar_type() == at::kDouble && state.is_contiguous() && state.dim() == 2 &&
              state.size(0) == policy.size(0) && state.size(1) == kStateColumns && state.device() == policy.device(),
              "masked_kl: the state must be contiguous float64 [rows, ", kStateColumns, "]");
  if (reference) {
    TORCH_CHECK(reference->sizes() == policy.sizes() && reference->scalar_type() == policy.scalar_type() &&
                reference->is_contiguous() && reference->device() == policy.device(),
                "masked_kl: policy and reference logits must be alike");
  }
}

inline Element element_of(const Tensor& logits) {
  switch (logits.scalar_type()) {
    case at::kFloat: return Element::kFloat32;
    case at::kBFloat16: return Element::kBFloat16;
    case at::kHalf: return Element::kFloat16;
    default: TORCH_CHECK(false, "masked_kl: logits must be float32, bfloat16 or float16, not ", logits.scalar_type());
  }
}

// Scale and cap.
using Map = at::ArrayRef<double>;

inline LogitMap map_of(Map map) {
  TORCH_CHECK(map.size() == 2, "masked_kl: a map is a scale and a cap");
  return {static_cast<float>(map[0]), static_cast<float>(map[1])};
}

inline ForwardArgs forward_args(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels,
                                int64_t first, Map policy_map, Map reference_map, int64_t form, double alpha,
                                bool squares, const Tensor& state) {
  check_tile(policy, reference, labels, state);
  TORCH_CHECK(reference || form == 0, "masked_kl: a divergence needs the reference's logits");
  return {policy.const_data_ptr(), reference ? reference->const_data_ptr() : nullptr, labels.const_data_ptr<int64_t>(),
          policy.size(1), first, element_of(policy), static_cast<Form>(form),
          static_cast<RowState*>(state.data_ptr()), map_of(policy_map), map_of(reference_map), static_cast<float>(alpha),
          squares};
}

inline BackwardArgs backward_args(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels,
                                  int64_t first, Map policy_map, Map reference_map, int64_t form, double alpha,
                                  const Tensor& state, const Tensor& grad_logp, const MaybeTensor& grad_divergence,
                                  const Tensor& gradient) {
  check_tile(policy, reference, labels, state);
  TORCH_CHECK(gradient.sizes() == policy.sizes() && gradient.scalar_type() == policy.scalar_type() &&
              gradient.is_contiguous() && gradient.device() == policy.device(),
              "masked_kl: the gradient must be like the logits");
  TORCH_CHECK(form == 0 || (reference && grad_divergence), "masked_kl: a divergence needs logits and a gradient");
  for (const MaybeTensor& grad : {MaybeTensor(grad_logp), grad_divergence}) {
    TORCH_CHECK(!grad || (grad->scalar_type() == at::kFloat && grad->is_contiguous() && grad->dim() == 1 &&
                          grad->size(0) == policy.size(0) && grad->device() == policy.device()),
                "masked_kl: upstream gradients are float32, one per row");
  }
  return {policy.const_data_ptr(), gradient.data_ptr(), form ? reference->const_data_ptr() : nullptr,
          labels.const_data_ptr<int64_t>(), policy.size(1), first, element_of(policy), static_cast<Form>(form),
          static_cast<const RowState*>(state.const_data_ptr()), grad_logp.const_data_ptr<float>(),
          form ? grad_divergence->const_data_ptr<float>() : nullptr, map_of(policy_map), map_of(reference_map),
          static_cast<float>(alpha)};
}

}  // namespace sparsepo
