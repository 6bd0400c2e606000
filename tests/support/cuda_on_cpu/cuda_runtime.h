// Runs CUDA kernels on one CPU thread: each thread of a block is a coroutine, and blocks run one after another.
//
// A coroutine runs until it waits for its warp or its block. Which warps go on, and in which order their threads do,
// is random (from a fixed seed), so that a missing barrier shows up as a wrong result. `__shared__` becomes `static`.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace cuda_on_cpu {

constexpr unsigned kWarp = 32;
constexpr std::size_t kStack = 256 * 1024;

struct Barrier {
  unsigned arrived = 0, generation = 0;
};

struct Warp {
  Barrier barrier;
  uint64_t slots[2][kWarp];  // of this shuffle and the one before, which slower threads may still read
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done;
};

inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline Barrier block;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline bool progress;
inline std::minstd_rand random(1);

inline void yield() { swapcontext(&threads[threadIdx.x].context, &scheduler); }

inline void wait(Barrier& barrier, unsigned size) {
  const unsigned generation = barrier.generation;
  progress = true;
  if (++barrier.arrived == size) {
    barrier.arrived = 0;
    ++barrier.generation;
  }
  while (barrier.generation == generation) yield();
}

inline void run_thread() {
  body();
  progress = threads[threadIdx.x].done = true;
  yield();
}

inline void start(Thread& thread) {
  thread.done = false;
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack.get();
  thread.context.uc_stack.ss_size = kStack;
  makecontext(&thread.context, run_thread, 0);
}

inline void run_block() {
  block = {};
  warps.assign(blockDim.x / kWarp, {});
  std::vector<unsigned> order(blockDim.x);
  for (unsigned i = 0; i < blockDim.x; ++i) {
    order[i] = i;
    start(threads[i]);
  }
  std::size_t left = blockDim.x;
  uint64_t awake = 0;  // a bit per warp
  for (int idle = 0; left > 0; idle = progress ? 0 : idle + 1) {
    if (idle > 1000) {
      std::fprintf(stderr, "cuda_on_cpu: %zu threads wait for threads that never come\n", left);
      std::abort();
    }
    // Rarely, so that some warps get far ahead of others.
    if (idle > 0 || random() % 32 == 0) awake = random() ^ static_cast<uint64_t>(random()) << 16;
    progress = false;
    std::shuffle(order.begin(), order.end(), random);
    for (const unsigned i : order) {
      if (threads[i].done || !(awake >> (i / kWarp) & 1)) continue;
      threadIdx = dim3(i);
      swapcontext(&scheduler, &threads[i].context);
      left -= threads[i].done;
    }
  }
}

template <typename T>
T exchange(unsigned mask, T value, unsigned other) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (mask != 0xffffffffu) std::abort();
  Warp& warp = warps[threadIdx.x / kWarp];
  uint64_t* const slots = warp.slots[warp.barrier.generation % 2];
  std::memcpy(slots + threadIdx.x % kWarp, &value, sizeof(T));
  wait(warp.barrier, kWarp);
  if (other < kWarp) std::memcpy(&value, slots + other, sizeof(T));
  return value;
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::wait(cuda_on_cpu::block, blockDim.x); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  return cuda_on_cpu::exchange(mask, value, (threadIdx.x % 32) ^ static_cast<unsigned>(lane_mask));
}

// As the GPU does it: one rounded product, and a power of two.
inline float __expf(float x) { return std::exp2(x * 1.4426950408889634f); }
inline float __fdividef(float x, float y) { return x / y; }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline void __stwb(uint4* to, uint4 value) { *to = value; }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... args) {
  using namespace cuda_on_cpu;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (blockDim.x % kWarp || blockDim.x > 1024 || blockDim.y * blockDim.z * gridDim.z != 1) return cudaErrorInvalidValue;
  while (threads.size() < blockDim.x) threads.emplace_back();
  body = [&] { kernel(args...); };
  for (unsigned y = 0; y < gridDim.y; ++y) {
    for (unsigned x = 0; x < gridDim.x; ++x) {
      blockIdx = dim3(x, y);
      run_block();
    }
  }
  return cudaSuccess;
}
