"""Graph passes on onnx-ir models: find batch norms in every dialect, put channel ops in their place."""

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.attach_functions import AttachFunctionsPass
from onnx_cbp.graph_passes.cancel_transposes import CancelTransposesPass
from onnx_cbp.graph_passes.channels_last import ChannelsLastPass
from onnx_cbp.graph_passes.complete_gradients import CompleteGradientsPass
from onnx_cbp.graph_passes.cut_at_outputs import RemoveUnusedPass, SetOutputsPass
from onnx_cbp.graph_passes.drop_training_outputs import DropTrainingOutputsPass
from onnx_cbp.graph_passes.drop_zero_bias import DropZeroBiasPass
from onnx_cbp.graph_passes.fold_batch_norm import FoldBatchNormPass
from onnx_cbp.graph_passes.fold_constants import FoldConstantsPass
from onnx_cbp.graph_passes.fold_relu import FoldReluPass
from onnx_cbp.graph_passes.freeze import FreezePass, Freezing
from onnx_cbp.graph_passes.inline_functions import InlineFunctionsPass
from onnx_cbp.graph_passes.recompute_relu import RecomputeReluPass
from onnx_cbp.graph_passes.reduce_gradients import ReduceGradientsPass
from onnx_cbp.graph_passes.replace_backward import ReplaceBackwardPass
from onnx_cbp.graph_passes.replace_forward import ReplaceForwardPass
from onnx_cbp.graph_passes.sites import BackwardSite, ForwardSite, InferenceSite, LeftAlone, Site, label
from onnx_cbp.graph_passes.synchronize import Synchronization
from onnx_cbp.graph_passes.to_inference import ToInferencePass
from onnx_cbp.graph_passes.train_batch_norms import TrainBatchNormsPass
from onnx_cbp.graph_passes.unshare_fixed import UnshareFixedPass
from onnx_cbp.graph_passes.whole_batch_loss import WholeBatchLossPass
from onnx_cbp.graph_passes.write_early import WriteEarlyPass
from onnx_cbp.graph_passes.write_running_stats import WriteRunningStatsPass

__all__ = [
    "AttachFunctionsPass",
    "BackwardSite",
    "CancelTransposesPass",
    "ChannelsLastPass",
    "CompleteGradientsPass",
    "DropTrainingOutputsPass",
    "DropZeroBiasPass",
    "FoldBatchNormPass",
    "FoldConstantsPass",
    "FoldReluPass",
    "ForwardSite",
    "FreezePass",
    "Freezing",
    "InferenceSite",
    "InlineFunctionsPass",
    "LeftAlone",
    "RecomputeReluPass",
    "ReduceGradientsPass",
    "RemoveUnusedPass",
    "ReplaceBackwardPass",
    "ReplaceForwardPass",
    "SetOutputsPass",
    "Site",
    "Synchronization",
    "ToInferencePass",
    "TrainBatchNormsPass",
    "UnshareFixedPass",
    "WholeBatchLossPass",
    "WriteEarlyPass",
    "WriteRunningStatsPass",
    "find_sites",
    "label",
]
