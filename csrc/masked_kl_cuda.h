// Launchers of the CUDA kernels. Pointers in the arguments are device pointers. Knows nothing of torch.
#pragma once

#include <cuda_runtime_api.h>

#include "masked_kl.h"

namespace sparsepo {

cudaError_t cuda_forward(const ForwardArgs& args, int64_t rows, cudaStream_t stream);
cudaError_t cuda_backward(const BackwardArgs& args, int64_t rows, cudaStream_t stream);

}  // namespace sparsepo
