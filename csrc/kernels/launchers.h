// The launchers of this build, each instantiated in the .cu file of its kind and type. See launch.h.
#pragma once

#include "kernels/launch.h"

namespace lstm_fused {

template <DType kType>
int step_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
template <DType kType>
int step_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);

template <DType kType>  // not float64
int block_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
template <DType kType>
int block_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);

template <DType kType>  // not float64
int cluster_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
template <DType kType>
int cluster_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);

template <DType kType>  // not float64
int group_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
template <DType kType>
int group_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);

template <DType kType>  // float32 or float64; params: VariantForwardParams or VariantBackwardParams
int variant_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
template <DType kType>
int variant_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);

// The same in float32, and no norms and no projection.
int variant_block_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
int variant_block_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
int variant_cluster_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
int variant_cluster_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
int variant_group_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);
int variant_group_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream);

}  // namespace lstm_fused
