// What the kinds of the table say about an op's inputs and outputs.
#pragma once

namespace onnx_cbp {

enum class TypeOf { kData, kStatistics, kCount };  // T, U, int64
// The shape of X, [C], [], [R], [R, C]. Then for a depthwise convolution of X: one place per window, and its weight.
// Then the same for a convolution of one group; and its weight with the first two axes exchanged.
enum class ShapeOf {
  kData,
  kChannels,
  kScalar,
  kReplicas,
  kReplicaChannels,
  kWindows,
  kKernel,
  kOutputs,
  kWeight,
  kExchangedWeight
};

struct Formal {
  const char* name;
  TypeOf type;
  ShapeOf shape;
};

// For each kind of the table, its type and its shape.
#define ONNX_CBP_TYPE_Data TypeOf::kData
#define ONNX_CBP_TYPE_Vector TypeOf::kStatistics
#define ONNX_CBP_TYPE_ReplicaVectors TypeOf::kStatistics
#define ONNX_CBP_TYPE_Count TypeOf::kCount
#define ONNX_CBP_TYPE_ReplicaCounts TypeOf::kCount
#define ONNX_CBP_TYPE_DepthwiseResults TypeOf::kData
#define ONNX_CBP_TYPE_DepthwiseWeight TypeOf::kData
#define ONNX_CBP_TYPE_Results TypeOf::kData
#define ONNX_CBP_TYPE_Weight TypeOf::kData
#define ONNX_CBP_TYPE_ExchangedWeight TypeOf::kData
#define ONNX_CBP_SHAPE_Data ShapeOf::kData
#define ONNX_CBP_SHAPE_Vector ShapeOf::kChannels
#define ONNX_CBP_SHAPE_ReplicaVectors ShapeOf::kReplicaChannels
#define ONNX_CBP_SHAPE_Count ShapeOf::kScalar
#define ONNX_CBP_SHAPE_ReplicaCounts ShapeOf::kReplicas
#define ONNX_CBP_SHAPE_DepthwiseResults ShapeOf::kWindows
#define ONNX_CBP_SHAPE_DepthwiseWeight ShapeOf::kKernel
#define ONNX_CBP_SHAPE_Results ShapeOf::kOutputs
#define ONNX_CBP_SHAPE_Weight ShapeOf::kWeight
#define ONNX_CBP_SHAPE_ExchangedWeight ShapeOf::kExchangedWeight

}  // namespace onnx_cbp
