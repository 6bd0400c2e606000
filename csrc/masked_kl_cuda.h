// Launchers of the CUDA kernels. Pointers are device pointers; `stream` is a cudaStream_t. Knows nothing of torch.
#pragma once

#include <cuda_runtime_api.h>

#include "masked_kl.h"

namespace sparsepo {

enum class CudaElement : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// ForwardArgs and BackwardArgs are those of the CPU kernels; their `element` is ignored in favour of `element` here.
cudaError_t cuda_forward(const ForwardArgs& args, CudaElement element, int64_t rows, cudaStream_t stream);
cudaError_t cuda_backward(const BackwardArgs& args, CudaElement element, int64_t rows, cudaStream_t stream);

}  // namespace sparsepo
