// CUDA kernels: one block per row, grid stride over rows, one read of the logits in the forward.
//
// To be compiled with -ftz=true: without it every exponential costs four more instructions, for numbers below 1e-38.
// tests/support/cuda_on_cpu compiles this for a CPU as well: launches are plain calls, and nothing is written in PTX.
#include "masked_kl_cuda.h"

#include <algorithm>

#include "masked_kl_packs.cuh"

namespace sparsepo {
namespace {

constexpr int kWarp = 32;
constexpr int kMostWidth = 1 << 29;  // of a tile: indices within a row have 32 bits
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kFewestThreads = 64;
constexpr int kMostThreads = 512;
constexpr int kBlocksPerProcessor = 2;  // of the most threads; allows 64 registers a thread, too few for some forwards
constexpr int kThreadsPerProcessor = 2048;

// The label's place in the tile, -1 where it is in another.
__device__ inline int place_of(int64_t label, int64_t first, int width) {
  return label >= first && label < first + width ? static_cast<int>(label - first) : -1;
}

// What to subtract from logits whose largest is `top`: finite, so that no difference of infinities makes a NaN.
template <typename Real>
__device__ Real base_of(Real top) { return top > -INFINITY ? top : Real(0); }

__device__ inline float fast_exp(float x) { return __expf(x); }
__device__ inline double fast_exp(double x) { return exp(x); }

// A LogitMap; of plain ones nothing is left once this is compiled.
template <bool kMapped>
struct Curve {
  const LogitMap& map;  // a kernel's argument, which takes no register

  __device__ explicit Curve(const LogitMap& map) : map(map) {}

  __device__ float operator()(float x) const {
    if (!kMapped) return x;
    if (!(map.cap < INFINITY)) return map.scale * x;
    const float t = map.ratio * x, u = __expf(-2.f * fabsf(t)), s = t * t;
    const float series = t + t * s * (-1.f / 3 + s * (2.f / 15 + s * (-17.f / 315)));
    return map.cap * (fabsf(t) < 0.125f ? series : copysignf(__fdividef(1.f - u, 1.f + u), t));
  }

  // dz/dx. Not 1 - tanh^2, which runs out of digits.
  __device__ float slope(float x) const {
    if (!kMapped) return 1.f;
    if (!(map.cap < INFINITY)) return map.scale;
    const float u = __expf(-2.f * fabsf(map.ratio * x)), d = 1.f + u;
    return map.scale * 4.f * u / (d * d);
  }
};

// Of two values, the one that belongs to the distribution the log-ratio is averaged under.
template <Form kForm, typename Real>
__device__ Real of_form(Real policy, Real reference) { return kForm == Form::kPolicy ? policy : reference; }

// Sums over some entries, as in RowState, except that `ratio` of kPolicy and kReference is of (z - policy base) -
// (y - reference base): an offset between the models costs no digits that way, and the differences are at hand.
template <typename Real, Form kForm, bool kReference, bool kSquares>
struct Sums {
  Real policy_top, policy_sum, reference_top, reference_sum, ratio, squares;

  // What RowState's ratio_sum has more than `ratio`.
  __device__ Real offset() const {
    if (kForm == Form::kAlpha) return Real(0);
    return of_form<kForm>(policy_sum, reference_sum) * (base_of(policy_top) - base_of(reference_top));
  }

  // Scales the sums to larger tops; `alpha` is of kAlpha.
  __device__ void raise(Real new_policy_top, Real new_reference_top, Real alpha) {
    const Real policy_base = base_of(new_policy_top), reference_base = base_of(new_reference_top);
    const Real policy_scale = fast_exp(policy_top - policy_base);
    const Real reference_scale = kReference ? fast_exp(reference_top - reference_base) : Real(0);
    if (kSquares) squares *= policy_scale * policy_scale;
    if (kForm == Form::kAlpha) {
      ratio *= fast_exp(alpha * (policy_top - policy_base) + (Real(1) - alpha) * (reference_top - reference_base));
    } else if (kForm != Form::kNone) {
      const Real scale = of_form<kForm>(policy_scale, reference_scale), sum = of_form<kForm>(policy_sum, reference_sum);
      const Real shift = (base_of(policy_top) - policy_base) - (base_of(reference_top) - reference_base);
      ratio = scale > 0 ? scale * (ratio + sum * shift) : Real(0);  // an infinite ratio of no weight is nothing
    }
    policy_sum *= policy_scale;
    reference_sum *= reference_scale;
    policy_top = new_policy_top;
    reference_top = new_reference_top;
  }

  // Packs of a row of `width` products, the first of which begins at `i`. What sticks out of the row is at -infinity,
  // where only an unmapped logit counts nothing by itself.
  template <bool kMapped, int kCount, typename T>
  __device__ void add(int i, int width, const Pack<T> (&policy)[kCount], const Pack<T> (&reference)[kCount],
                      const Curve<kMapped>& policy_curve, const Curve<kMapped>& reference_curve, Real alpha) {
    constexpr int kSize = Pack<T>::kSize;
    Real largest = kMapped ? -INFINITY : policy_top, other = kMapped && kReference ? -INFINITY : reference_top;
#pragma unroll
    for (int k = 0; k < kCount * kSize; ++k) {
      largest = fmaxf(largest, to_float(policy[k / kSize].at[k % kSize]));
      if (kReference) other = fmaxf(other, to_float(reference[k / kSize].at[k % kSize]));
    }
    // A map rises, so that the largest product makes the largest logit.
    if (kMapped) largest = fmaxf(policy_top, policy_curve(largest));
    if (kMapped && kReference) other = fmaxf(reference_top, reference_curve(other));
    raise(largest, other, alpha);
    const Real policy_base = base_of(policy_top), reference_base = base_of(reference_top);
#pragma unroll
    for (int k = 0; k < kCount * kSize; ++k) {
      if (kMapped && kCount == 1 && (i + k < 0 || i + k >= width)) continue;
      const Real z = policy_curve(to_float(policy[k / kSize].at[k % kSize])) - policy_base, p = fast_exp(z);
      policy_sum += p;
      if (kSquares) squares += p * p;
      if (!kReference) continue;
      const Real y = reference_curve(to_float(reference[k / kSize].at[k % kSize])) - reference_base, r = fast_exp(y);
      reference_sum += r;
      if (kForm == Form::kAlpha) {
        if (p > 0) ratio += p * fast_exp((Real(1) - alpha) * (y - z));  // exactly p where the models agree
      } else if (kForm != Form::kNone && of_form<kForm>(p, r) > 0) ratio += of_form<kForm>(p, r) * (z - y);
    }
  }

  __device__ void merge_warp(Real alpha) {
    Real new_policy_top = policy_top, new_reference_top = reference_top;
#pragma unroll
    for (int lane = kWarp / 2; lane > 0; lane /= 2) {
      new_policy_top = fmaxf(new_policy_top, __shfl_xor_sync(kAllLanes, new_policy_top, lane));
      if (kReference) new_reference_top = fmaxf(new_reference_top, __shfl_xor_sync(kAllLanes, new_reference_top, lane));
    }
    raise(new_policy_top, new_reference_top, alpha);
#pragma unroll
    for (int lane = kWarp / 2; lane > 0; lane /= 2) {
      policy_sum += __shfl_xor_sync(kAllLanes, policy_sum, lane);
      if (kReference) reference_sum += __shfl_xor_sync(kAllLanes, reference_sum, lane);
      if (kForm != Form::kNone) ratio += __shfl_xor_sync(kAllLanes, ratio, lane);
      if (kSquares) squares += __shfl_xor_sync(kAllLanes, squares, lane);
    }
  }

  // `state` becomes `before` and these sums, all but the labels.
  __device__ void fold_into(RowState& state, const RowState& before, double alpha) const {
    using Wide = Sums<double, kForm, kReference, kSquares>;
    Wide here = {policy_top, policy_sum, reference_top, reference_sum, ratio, squares};
    Wide all = {before.policy_top, before.policy_sum, before.reference_top, before.reference_sum, before.ratio_sum,
                before.square_sum};
    all.ratio -= all.offset();
    const double new_policy_top = fmax(here.policy_top, all.policy_top);
    const double new_reference_top = fmax(here.reference_top, all.reference_top);
    here.raise(new_policy_top, new_reference_top, alpha);
    all.raise(new_policy_top, new_reference_top, alpha);
    all.policy_sum += here.policy_sum;
    all.reference_sum += here.reference_sum;
    all.ratio += here.ratio;
    all.squares += here.squares;
    state.policy_top = all.policy_top;
    state.policy_sum = all.policy_sum;
    if (kReference) state.reference_top = all.reference_top;
    if (kReference) state.reference_sum = all.reference_sum;
    if (kForm != Form::kNone) state.ratio_sum = all.ratio + all.offset();
    if (kSquares) state.square_sum = all.squares;
  }
};

template <typename T, Form kForm, bool kReference, bool kMapped, bool kSquares>
__global__ void __launch_bounds__(kMostThreads, kMapped || kSquares || kForm == Form::kAlpha ? 1 : kBlocksPerProcessor)
    forward_kernel(ForwardArgs args, int64_t rows) {
  using Tile = Sums<float, kForm, kReference, kSquares>;
  constexpr Tile kEmpty = {-INFINITY, 0.f, -INFINITY, 0.f, 0.f, 0.f};
  constexpr int kFields = sizeof(RowState) / sizeof(double);
  // Two of each: warps write the next row's while the first warp still reads this row's.
  __shared__ Tile of_warps[2][kMostThreads / kWarp];
  __shared__ RowState before[2];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int width = args.width, step = blockDim.x * Pack<T>::kSize;
  const Curve<kMapped> policy_curve(args.policy_map), reference_curve(args.reference_map);
  int turn = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    const T* policy = static_cast<const T*>(args.policy) + row * args.width;
    const T* reference = kReference ? static_cast<const T*>(args.reference) + row * args.width : nullptr;
    const int label = place_of(args.labels[row], args.first, width);
    // Read early, so that the loads of the logits hide its latency, and by several threads, to need few registers.
    double field = 0.0;
    if (threadIdx.x < kFields) field = reinterpret_cast<const double*>(args.state + row)[threadIdx.x];
    Tile sums = kEmpty;
    const Row<T> tile = {policy, reference, width, kReference,
                         !kReference || misalignment(policy) == misalignment(reference)};
    tile.for_packs(threadIdx.x * Pack<T>::kSize, step, [&](int i, const auto& z, const auto& y) {
      sums.add(i, width, z, y, policy_curve, reference_curve, args.alpha);
    });
    sums.merge_warp(args.alpha);
    if (lane == 0) of_warps[turn][warp] = sums;
    if (threadIdx.x < kFields) reinterpret_cast<double*>(before + turn)[threadIdx.x] = field;
    __syncthreads();
    if (warp == 0) {
      sums = lane < warps ? of_warps[turn][lane] : kEmpty;
      sums.merge_warp(args.alpha);
      if (lane == 0) sums.fold_into(args.state[row], before[turn], args.alpha);
    } else if (warp == 1 && lane == 0 && label >= 0) {
      args.state[row].policy_label = policy_curve(to_float(policy[label]));
      if (kReference) args.state[row].reference_label = reference_curve(to_float(reference[label]));
    }
  }
}

template <typename T, Form kForm, bool kMapped>
__global__ void __launch_bounds__(kMostThreads, kBlocksPerProcessor) backward_kernel(BackwardArgs args, int64_t rows) {
  const int width = args.width, step = blockDim.x * gridDim.y * Pack<T>::kSize;
  const int first = (blockIdx.y * blockDim.x + threadIdx.x) * Pack<T>::kSize;
  const Curve<kMapped> curve(args.policy_map), reference_curve(args.reference_map);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* policy = static_cast<const T*>(args.policy) + row * args.width;
    T* gradient = static_cast<T*>(args.gradient) + row * args.width;
    const int label = place_of(args.labels[row], args.first, width);
    const RowState& state = args.state[row];
    const float grad_logp = args.grad_logp[row];
    const float grad_divergence = kForm == Form::kNone ? 0.f : args.grad_divergence[row];
    const bool diverges = kForm != Form::kNone && grad_divergence != 0.f;
    const T* reference = diverges ? static_cast<const T*>(args.reference) + row * args.width : nullptr;
    const float policy_top = state.policy_top, policy_scale = 1.f / static_cast<float>(state.policy_sum);
    float reference_top = 0.f, reference_scale = 0.f, mean = 0.f, share = 0.f;
    const float rest = 1.f - args.alpha;
    if (diverges) {
      reference_top = state.reference_top;
      if (kForm == Form::kReference) reference_scale = 1.f / static_cast<float>(state.reference_sum);
      // The sum of p^alpha r^(1 - alpha), and what makes (r / p)^(1 - alpha) of differences from the tops.
      else if (kForm == Form::kAlpha) {
        const double power = pow(state.policy_sum / state.reference_sum, 1. - args.alpha);
        share = power;
        mean = state.ratio_sum / state.policy_sum * power;
      }
      // Of the differences from the tops, as in Sums.
      else mean = state.ratio_sum / state.policy_sum - (state.policy_top - state.reference_top);
    }
    const bool alike = misalignment(policy) == misalignment(gradient) &&
                       (!diverges || misalignment(policy) == misalignment(reference));
    const Row<T> tile = {policy, reference, width, diverges, alike};
    tile.for_packs(first, step, [&](int i, const auto& z, const auto& y) {
      constexpr int kCount = sizeof(z) / kBytes;
#pragma unroll
      for (int u = 0; u < kCount; ++u) {
        float gradients[Pack<T>::kSize];
#pragma unroll
        for (int j = 0; j < Pack<T>::kSize; ++j) {
          const float product = to_float(z[u].at[j]);
          const float x = curve(product) - policy_top, p = __expf(x) * policy_scale;
          float g = grad_logp * ((label == i + u * step + j ? 1.f : 0.f) - p);
          if (diverges) {
            const float w = reference_curve(to_float(y[u].at[j])) - reference_top;
            if (kForm == Form::kReference) g += grad_divergence * (__expf(w) * reference_scale - p);
            else if (kForm == Form::kAlpha) {
              if (p > 0.f) g += grad_divergence * p * (mean - share * __expf(rest * (w - x))) / rest;
            } else if (p > 0.f) g += grad_divergence * p * ((x - w) - mean);
          }
          gradients[j] = kMapped ? g * curve.slope(product) : g;
        }
        store(gradient, width, i + u * step, kCount > 1, gradients);
      }
    });
  }
}

template <typename T, bool kMapped, bool kSquares>
auto forward_for(const ForwardArgs& args) {
  if (args.reference == nullptr) return forward_kernel<T, Form::kNone, false, kMapped, kSquares>;
  if (args.form == Form::kNone) return forward_kernel<T, Form::kNone, true, kMapped, kSquares>;
  if (args.form == Form::kPolicy) return forward_kernel<T, Form::kPolicy, true, kMapped, kSquares>;
  if (args.form == Form::kAlpha) return forward_kernel<T, Form::kAlpha, true, kMapped, kSquares>;
  return forward_kernel<T, Form::kReference, true, kMapped, kSquares>;
}

template <typename T, bool kMapped>
auto kernel_for(const ForwardArgs& args) {
  return args.squares ? forward_for<T, kMapped, true>(args) : forward_for<T, kMapped, false>(args);
}

template <typename T, bool kMapped>
auto kernel_for(const BackwardArgs& args) {
  if (args.form == Form::kNone) return backward_kernel<T, Form::kNone, kMapped>;
  if (args.form == Form::kPolicy) return backward_kernel<T, Form::kPolicy, kMapped>;
  if (args.form == Form::kAlpha) return backward_kernel<T, Form::kAlpha, kMapped>;
  return backward_kernel<T, Form::kReference, kMapped>;
}

template <typename T, typename Args>
auto kernel_for(const Args& args) {
  return is_plain(args) ? kernel_for<T, false>(args) : kernel_for<T, true>(args);
}

// A row's tile is split over gridDim.y blocks where there are too few rows, if the kernel can do that.
template <typename Args>
cudaError_t launch(const Args& args, int64_t rows, bool splits, cudaStream_t stream) {
  if (rows == 0 || args.width == 0) return cudaSuccess;
  if (args.width > kMostWidth) return cudaErrorInvalidValue;
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const int64_t packs = args.width * (args.element == Element::kFloat32 ? 4 : 2) / kBytes;
  int64_t threads = kFewestThreads;
  while (threads < kMostThreads && packs > 4 * kUnroll * threads) threads *= 2;
  const int64_t most = processors * (kThreadsPerProcessor / threads), across = std::min(rows, most);
  const int64_t parts = splits ? std::min(most / across, packs / (kUnroll * threads)) : 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(across), static_cast<unsigned>(std::max<int64_t>(parts, 1)));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  switch (args.element) {
    case Element::kFloat32: return cudaLaunchKernelEx(&config, kernel_for<float>(args), args, rows);
    case Element::kBFloat16: return cudaLaunchKernelEx(&config, kernel_for<__nv_bfloat16>(args), args, rows);
    case Element::kFloat16: return cudaLaunchKernelEx(&config, kernel_for<__half>(args), args, rows);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t cuda_forward(const ForwardArgs& args, int64_t rows, cudaStream_t stream) {
  return launch(args, rows, false, stream);
}

cudaError_t cuda_backward(const BackwardArgs& args, int64_t rows, cudaStream_t stream) {
  return launch(args, rows, true, stream);
}

}  // namespace sparsepo
