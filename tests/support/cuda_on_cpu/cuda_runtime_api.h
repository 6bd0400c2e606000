// The part of CUDA's runtime API that csrc/masked_kl_cuda.cu uses, for a CPU.
#pragma once

using cudaStream_t = struct CUstream_st*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }

// Few, so that a handful of rows is more than the grid has blocks.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 1, cudaSuccess; }
