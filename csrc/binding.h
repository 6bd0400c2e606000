// What both bindings share: checks of tensors, and the kernels' arguments made of them.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include "masked_kl.h"

namespace sparsepo {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline void check_chunk(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels) {
  TORCH_CHECK(policy.dim() == 2 && policy.is_contiguous(), "masked_kl: logits must be a contiguous matrix");
  TORCH_CHECK(labels.scalar_type() == at::kLong && labels.is_contiguous() && labels.dim() == 1 &&
              labels.size(0) == policy.size(0) && labels.device() == policy.device(),
              "masked_kl: one int64 label per row, on the logits' device");
  if (reference) {
    TORCH_CHECK(reference->sizes() == policy.sizes() && reference->scalar_type() == policy.scalar_type() &&
                reference->is_contiguous() && reference->device() == policy.device(),
                "masked_kl: policy and reference logits must be alike");
  }
}

inline float* floats(const Tensor& tensor) { return tensor.numel() ? tensor.data_ptr<float>() : nullptr; }

// policy_logp, reference_logp, divergence, policy_lse, reference_lse; empty where undefined.
using Stats = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Stats empty_stats(const Tensor& policy, const MaybeTensor& reference, int64_t form) {
  const auto options = policy.options().dtype(at::kFloat);
  const int64_t rows = policy.size(0), with_reference = reference ? rows : 0;
  return {at::empty({rows}, options), at::empty({with_reference}, options),
          at::empty({form ? with_reference : 0}, options), at::empty({rows}, options),
          at::empty({with_reference}, options)};
}

inline ForwardArgs forward_args(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels, int64_t form,
                                const Stats& stats, Element element) {
  const auto& [logp, ref_logp, divergence, lse, ref_lse] = stats;
  return {policy.const_data_ptr(), reference ? reference->const_data_ptr() : nullptr, labels.const_data_ptr<int64_t>(),
          policy.size(1), element, static_cast<Form>(form), floats(lse), floats(ref_lse), floats(logp),
          floats(ref_logp), floats(divergence)};
}

inline BackwardArgs backward_args(const Tensor& policy, const MaybeTensor& reference, const Tensor& labels,
                                  const Tensor& lse, const Tensor& ref_lse, const Tensor& divergence,
                                  const Tensor& grad_logp, const MaybeTensor& grad_divergence, int64_t form,
                                  const Tensor& gradient, Element element) {
  check_chunk(policy, reference, labels);
  TORCH_CHECK(gradient.sizes() == policy.sizes() && gradient.scalar_type() == policy.scalar_type() &&
              gradient.is_contiguous(), "masked_kl: the gradient must be like the logits");
  for (const Tensor& stat : {lse, ref_lse, divergence, grad_logp}) {
    TORCH_CHECK(stat.scalar_type() == at::kFloat && stat.is_contiguous(), "masked_kl: statistics are float32");
  }
  return {policy.const_data_ptr(), gradient.data_ptr(), reference ? reference->const_data_ptr() : nullptr,
          labels.const_data_ptr<int64_t>(), policy.size(1), element, static_cast<Form>(form), floats(lse),
          floats(ref_lse), floats(divergence), floats(grad_logp),
          grad_divergence ? floats(*grad_divergence) : nullptr};
}

}  // namespace sparsepo
