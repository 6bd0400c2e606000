// CUDA kernels: one block per row, grid stride over rows, 16-byte loads, one read of the logits in the forward.
#include "masked_kl_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

namespace sparsepo {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBlocksPerProcessor = 3;  // leaves 40 registers a thread: none is spilled
constexpr int kBytes = 16;  // of one load
constexpr float kLowest = -1e30f;  // below every finite logit, and finite: differences of it make no NaN

template <typename T>
__device__ inline float to_float(T value) { return static_cast<float>(value); }

// A running softmax: the largest value, the sum of exp(x - largest), and that sum weighted with log-ratios.
struct Running {
  float top = kLowest, sum = 0.f, ratio = 0.f;

  __device__ void add(float x, float log_ratio) {
    if (x > top) {
      const float scale = __expf(top - x);
      sum *= scale;
      ratio *= scale;
      top = x;
    }
    const float e = __expf(x - top);
    sum += e;
    ratio += e > 0.f ? e * log_ratio : 0.f;
  }

  __device__ void merge(float other_top, float other_sum, float other_ratio) {
    const float best = fmaxf(top, other_top);
    const float mine = __expf(top - best), theirs = __expf(other_top - best);
    sum = sum * mine + other_sum * theirs;
    ratio = ratio * mine + other_ratio * theirs;
    top = best;
  }

  __device__ void merge_warp() {
    for (int lane = 16; lane > 0; lane >>= 1) {
      merge(__shfl_down_sync(0xffffffffu, top, lane), __shfl_down_sync(0xffffffffu, sum, lane),
            __shfl_down_sync(0xffffffffu, ratio, lane));
    }
  }
};

// The block's total, valid in thread 0.
__device__ void merge_block(Running& running, Running* shared) {
  running.merge_warp();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = running;
  __syncthreads();
  if (threadIdx.x < 32) {
    running = threadIdx.x < kWarps ? shared[threadIdx.x] : Running{};
    running.merge_warp();
  }
  __syncthreads();
}

template <typename T>
struct alignas(kBytes) Pack {
  static constexpr int kSize = kBytes / sizeof(T);
  T at[kSize];
};

// Elements before the first 16-byte boundary of a row, or all of them where the arrays are aligned differently.
template <typename T>
__device__ int64_t head_length(const T* row, int64_t n, bool same_alignment) {
  if (!same_alignment) return n;
  const int64_t head = (kBytes - reinterpret_cast<uintptr_t>(row) % kBytes) % kBytes / sizeof(T);
  return head < n ? head : n;
}

// body(i, count): elements [i, i + count) of the row, count being 1 or Pack<T>::kSize (aligned).
template <typename T, typename Single, typename Packed>
__device__ void for_row(const T* row, int64_t n, bool same_alignment, const Single& single, const Packed& packed) {
  const int64_t head = head_length(row, n, same_alignment);
  const int64_t packs = (n - head) / Pack<T>::kSize;
  for (int64_t i = threadIdx.x; i < head; i += kThreads) single(i);
  for (int64_t k = threadIdx.x; k < packs; k += kThreads) packed(head + k * Pack<T>::kSize);
  for (int64_t i = head + packs * Pack<T>::kSize + threadIdx.x; i < n; i += kThreads) single(i);
}

template <typename T>
__device__ const Pack<T>& pack_at(const T* data) { return *reinterpret_cast<const Pack<T>*>(data); }

template <typename T, bool kHasReference, bool kUnderReference>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor) forward_kernel(ForwardArgs args, int64_t rows, bool same_alignment) {
  __shared__ Running shared[kWarps];
  const int64_t n = args.vocabulary;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* policy = static_cast<const T*>(args.policy) + row * n;
    const T* reference = kHasReference ? static_cast<const T*>(args.reference) + row * n : nullptr;
    const int64_t label = args.labels[row];
    // Shifted by the label's logit, so that a constant offset between the models does not cost digits.
    const float label_logit = to_float(policy[label]);
    const float shift = isfinite(label_logit) ? label_logit : 0.f;
    float ref_label_logit = 0.f, ref_shift = 0.f;
    if (kHasReference) {
      ref_label_logit = to_float(reference[label]);
      ref_shift = isfinite(ref_label_logit) ? ref_label_logit : 0.f;
    }
    Running p, r;
    const auto add = [&](T z, T y) {
      const float x = to_float(z) - shift;
      if (kHasReference) {
        const float w = to_float(y) - ref_shift;
        p.add(x, kUnderReference ? 0.f : x - w);
        r.add(w, kUnderReference ? x - w : 0.f);
      } else {
        p.add(x, 0.f);
      }
    };
    for_row(policy, n, same_alignment,
            [&](int64_t i) { add(policy[i], kHasReference ? reference[i] : policy[i]); },
            [&](int64_t i) {
              const Pack<T> z = pack_at(policy + i);
              const Pack<T> y = kHasReference ? pack_at(reference + i) : z;
#pragma unroll
              for (int j = 0; j < Pack<T>::kSize; ++j) add(z.at[j], y.at[j]);
            });
    merge_block(p, shared);
    if (kHasReference) merge_block(r, shared);
    if (threadIdx.x == 0) {
      const float policy_log = p.top + logf(p.sum);  // of the shifted logits
      args.policy_lse[row] = shift + policy_log;
      args.policy_logp[row] = (label_logit - shift) - policy_log;
      if (kHasReference) {
        const float reference_log = r.top + logf(r.sum);
        args.reference_lse[row] = ref_shift + reference_log;
        args.reference_logp[row] = (ref_label_logit - ref_shift) - reference_log;
        if (args.form != Form::kNone) {
          const float expected = kUnderReference ? r.ratio / r.sum : p.ratio / p.sum;
          args.divergence[row] = expected - (policy_log - reference_log);
        }
      }
    }
  }
}

template <typename T, Form kForm>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor) backward_kernel(BackwardArgs args, int64_t rows, bool same_alignment) {
  const int64_t n = args.vocabulary;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* policy = static_cast<const T*>(args.policy) + row * n;
    const T* reference = kForm == Form::kNone ? nullptr : static_cast<const T*>(args.reference) + row * n;
    T* gradient = static_cast<T*>(args.gradient) + row * n;
    const int64_t label = args.labels[row];
    const float lse = args.policy_lse[row], grad_logp = args.grad_logp[row];
    const float ref_lse = kForm == Form::kNone ? 0.f : args.reference_lse[row];
    const float grad_v = kForm == Form::kNone ? 0.f : args.grad_divergence[row];
    const float v = kForm == Form::kPolicy ? args.divergence[row] : 0.f;
    const auto value = [&](T z, T y, int64_t i) {
      const float x = to_float(z) - lse;
      const float p = __expf(x);
      float g = -grad_logp * p;
      if (kForm == Form::kPolicy && p > 0.f) g += grad_v * p * (x - (to_float(y) - ref_lse) - v);
      if (kForm == Form::kReference) g += grad_v * (__expf(to_float(y) - ref_lse) - p);
      return static_cast<T>(i == label ? g + grad_logp : g);
    };
    for_row(policy, n, same_alignment,
            [&](int64_t i) { gradient[i] = value(policy[i], kForm == Form::kNone ? policy[i] : reference[i], i); },
            [&](int64_t i) {
              const Pack<T> z = pack_at(policy + i);
              const Pack<T> y = kForm == Form::kNone ? z : pack_at(reference + i);
              Pack<T> g;
#pragma unroll
              for (int j = 0; j < Pack<T>::kSize; ++j) g.at[j] = value(z.at[j], y.at[j], i + j);
              *reinterpret_cast<Pack<T>*>(gradient + i) = g;
            });
  }
}

int blocks_for(int64_t rows) {
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  const int64_t most = kBlocksPerProcessor * 1LL * (processors > 0 ? processors : 1);
  return static_cast<int>(rows < most ? rows : most);
}

uintptr_t offset_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kBytes; }

template <typename T>
void launch_forward(const ForwardArgs& args, int64_t rows, cudaStream_t stream) {
  const bool same = args.reference == nullptr || offset_of(args.policy) == offset_of(args.reference);
  const int blocks = blocks_for(rows);
  if (args.reference == nullptr) {
    forward_kernel<T, false, false><<<blocks, kThreads, 0, stream>>>(args, rows, same);
  } else if (args.form == Form::kReference) {
    forward_kernel<T, true, true><<<blocks, kThreads, 0, stream>>>(args, rows, same);
  } else {
    forward_kernel<T, true, false><<<blocks, kThreads, 0, stream>>>(args, rows, same);
  }
}

template <typename T>
void launch_backward(const BackwardArgs& args, int64_t rows, cudaStream_t stream) {
  const Form form = args.grad_divergence == nullptr ? Form::kNone : args.form;
  const bool same = offset_of(args.policy) == offset_of(args.gradient) &&
                    (form == Form::kNone || offset_of(args.policy) == offset_of(args.reference));
  const int blocks = blocks_for(rows);
  if (form == Form::kNone) {
    backward_kernel<T, Form::kNone><<<blocks, kThreads, 0, stream>>>(args, rows, same);
  } else if (form == Form::kPolicy) {
    backward_kernel<T, Form::kPolicy><<<blocks, kThreads, 0, stream>>>(args, rows, same);
  } else {
    backward_kernel<T, Form::kReference><<<blocks, kThreads, 0, stream>>>(args, rows, same);
  }
}

}  // namespace

cudaError_t cuda_forward(const ForwardArgs& args, CudaElement element, int64_t rows, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  switch (element) {
    case CudaElement::kFloat32: launch_forward<float>(args, rows, stream); break;
    case CudaElement::kBFloat16: launch_forward<__nv_bfloat16>(args, rows, stream); break;
    case CudaElement::kFloat16: launch_forward<__half>(args, rows, stream); break;
  }
  return cudaGetLastError();
}

cudaError_t cuda_backward(const BackwardArgs& args, CudaElement element, int64_t rows, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  switch (element) {
    case CudaElement::kFloat32: launch_backward<float>(args, rows, stream); break;
    case CudaElement::kBFloat16: launch_backward<__nv_bfloat16>(args, rows, stream); break;
    case CudaElement::kFloat16: launch_backward<__half>(args, rows, stream); break;
  }
  return cudaGetLastError();
}

}  // namespace sparsepo
