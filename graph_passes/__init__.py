"""Graph passes on onnx-ir models: find batch norms in every dialect, put channel ops in their place."""

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.attach_functions import AttachFunctionsPass
from onnx_cbp.graph_passes.channels_last import ChannelsLastPass
from onnx_cbp.graph_passes.fold_relu import FoldReluPass
from onnx_cbp.graph_passes.inline_functions import InlineFunctionsPass
from onnx_cbp.graph_passes.recompute_relu import RecomputeReluPass
from onnx_cbp.graph_passes.reduce_gradients import ReduceGradientsPass
from onnx_cbp.graph_passes.replace_backward import ReplaceBackwardPass
from onnx_cbp.graph_passes.replace_forward import ReplaceForwardPass
from onnx_cbp.graph_passes.sites import BackwardSite, ForwardSite, InferenceSite, LeftAlone, Site, label
from onnx_cbp.graph_passes.synchronize import Synchronization
from onnx_cbp.graph_passes.train_batch_norms import TrainBatchNormsPass
from onnx_cbp.graph_passes.whole_batch_loss import WholeBatchLossPass

__all__ = [
    "AttachFunctionsPass",
    "BackwardSite",
    "ChannelsLastPass",
    "FoldReluPass",
    "ForwardSite",
    "InferenceSite",
    "InlineFunctionsPass",
    "LeftAlone",
    "RecomputeReluPass",
    "ReduceGradientsPass",
    "ReplaceBackwardPass",
    "ReplaceForwardPass",
    "Site",
    "Synchronization",
    "TrainBatchNormsPass",
    "WholeBatchLossPass",
    "find_sites",
    "label",
]
