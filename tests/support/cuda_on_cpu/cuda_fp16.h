// float16 as csrc/masked_kl_cuda.cu uses it, for a CPU. No operators: PyTorch builds without CUDA's.
#pragma once

struct __half {
  _Float16 value;
};

struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half half) { return static_cast<float>(half.value); }
inline __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
