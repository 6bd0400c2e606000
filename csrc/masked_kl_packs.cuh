// Rows of logits in CUDA kernels, read and written 16 bytes at a time wherever a row may start.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace sparsepo {

constexpr int kBytes = 16;  // of one load
constexpr int kUnroll = 2;  // packs a thread has in flight, per array

// PyTorch builds extensions without the operators of these types, so conversions are by name.
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(__half value) { return __half2float(value); }

template <typename T>
__device__ inline T from_float(float value) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(value);
  else if constexpr (std::is_same_v<T, __half>) return __float2half_rn(value);
  else return value;
}

template <typename T>
__device__ inline unsigned bits_of(const T& value) {
  unsigned bits;
  static_assert(sizeof(value) == sizeof(bits));
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Values rounded to T, as many as four bytes hold.
template <typename T>
__device__ inline unsigned to_word(const float* values) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return bits_of(__floats2bfloat162_rn(values[0], values[1]));
  else if constexpr (std::is_same_v<T, __half>) return bits_of(__floats2half2_rn(values[0], values[1]));
  else return bits_of(values[0]);
}

template <typename T>
struct alignas(kBytes) Pack {
  static constexpr int kSize = kBytes / sizeof(T);
  T at[kSize];
};

__device__ inline uintptr_t misalignment(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kBytes; }

template <typename T>
__device__ bool is_whole(const T* row, int width, int i) {
  return i >= 0 && i + Pack<T>::kSize <= width && misalignment(row + i) == 0;
}

// Elements [i, i + kSize) of a row; those outside of it are -infinity, which adds nothing to any sum.
template <typename T>
__device__ Pack<T> load(const T* row, int width, int i, bool whole) {
  if (whole || is_whole(row, width, i)) return *reinterpret_cast<const Pack<T>*>(row + i);
  Pack<T> pack;
#pragma unroll
  for (int j = 0; j < Pack<T>::kSize; ++j) {
    pack.at[j] = i + j >= 0 && i + j < width ? row[i + j] : from_float<T>(-INFINITY);
  }
  return pack;
}

// Rounds the elements [i, i + kSize) of a row and stores those that are in it.
template <typename T>
__device__ void store(T* row, int width, int i, bool whole, const float (&values)[Pack<T>::kSize]) {
  if (whole || is_whole(row, width, i)) {
    constexpr int kPerWord = Pack<T>::kSize / 4;
    const uint4 words = make_uint4(to_word<T>(values), to_word<T>(values + kPerWord), to_word<T>(values + 2 * kPerWord),
                                   to_word<T>(values + 3 * kPerWord));
    __stwb(reinterpret_cast<uint4*>(row + i), words);  // by name: nvcc 13 splits an assignment here into four stores
    return;
  }
#pragma unroll
  for (int j = 0; j < Pack<T>::kSize; ++j) {
    if (i + j >= 0 && i + j < width) row[i + j] = from_float<T>(values[j]);
  }
}

// One row of a tile. The reference is read only if `compares`.
template <typename T>
struct Row {
  const T *policy, *reference;
  int width;
  bool compares, alike;  // alike: every array of the row is aligned as the policy's

  template <int kCount, typename Body>
  __device__ void visit(int i, int step, const Body& body) const {
    Pack<T> z[kCount], y[kCount];
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      z[u] = load(policy, width, i + u * step, kCount > 1);
      if (compares) y[u] = load(reference, width, i + u * step, kCount > 1);
    }
    body(i, z, y);
  }

  // Calls body(i, z, y) with arrays of the packs at i, i + step, ... until every pack has had its turn. Packs lie on
  // the policy's 16-byte boundaries, so the first and last may stick out of the row. Several at once are whole.
  template <typename Body>
  __device__ void for_packs(int first, int step, const Body& body) const {
    const int head = (kBytes - misalignment(policy)) % kBytes / sizeof(T);
    int i = head + first;
    if (alike) {
      for (; i + (kUnroll - 1) * step + Pack<T>::kSize <= width; i += kUnroll * step) visit<kUnroll>(i, step, body);
    }
    for (; i < width; i += step) visit<1>(i, step, body);
    if (head > 0 && first + Pack<T>::kSize == step) visit<1>(head - Pack<T>::kSize, step, body);
  }
};

}  // namespace sparsepo
