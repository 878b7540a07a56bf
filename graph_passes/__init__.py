"""Graph passes on onnx-ir models: they find batch norms in every dialect, and replace them with our ops."""

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, InferenceSite, LeftAlone, Site, label
from onnx_cbp.graph_passes.distributing.reduce_gradients import ReduceGradientsPass
from onnx_cbp.graph_passes.distributing.synchronize import Synchronization
from onnx_cbp.graph_passes.distributing.whole_batch_loss import WholeBatchLossPass
from onnx_cbp.graph_passes.finalizing.cut_at_outputs import RemoveUnusedPass, SetOutputsPass
from onnx_cbp.graph_passes.finalizing.fold_affine import FoldAffinePass
from onnx_cbp.graph_passes.finalizing.fold_batch_norm import FoldBatchNormPass
from onnx_cbp.graph_passes.finalizing.to_inference import ToInferencePass
from onnx_cbp.graph_passes.preparing.complete_gradients import CompleteGradientsPass
from onnx_cbp.graph_passes.preparing.decompose import DecomposePass
from onnx_cbp.graph_passes.preparing.explicit_pads import ExplicitPadsPass
from onnx_cbp.graph_passes.preparing.parameters.drop_zero_bias import DropZeroBiasPass
from onnx_cbp.graph_passes.preparing.parameters.restore_biases import RestoreBiasesPass
from onnx_cbp.graph_passes.preparing.parameters.separate_merged import SeparateMergedPass
from onnx_cbp.graph_passes.preparing.parameters.unshare_fixed import UnshareFixedPass
from onnx_cbp.graph_passes.preparing.scalar_ranges import ScalarRangesPass
from onnx_cbp.graph_passes.preparing.simplifying.fold_constants import FoldConstantsPass
from onnx_cbp.graph_passes.preparing.simplifying.fold_shapes import FoldShapesPass
from onnx_cbp.graph_passes.preparing.simplifying.inline_branches import InlineBranchesPass
from onnx_cbp.graph_passes.preparing.simplifying.inline_functions import InlineAllFunctionsPass, InlineFunctionsPass
from onnx_cbp.graph_passes.preparing.simplifying.unpack_sequences import UnpackSequencesPass
from onnx_cbp.graph_passes.preparing.spell_out import SpellOutPass
from onnx_cbp.graph_passes.preparing.split_squares import SplitSquaresPass
from onnx_cbp.graph_passes.preparing.squeeze_einsums import SqueezeEinsumsPass
from onnx_cbp.graph_passes.rewriting.attach_functions import AttachFunctionsPass
from onnx_cbp.graph_passes.rewriting.cancel_transposes import CancelTransposesPass
from onnx_cbp.graph_passes.rewriting.channels_last import ChannelsLastPass
from onnx_cbp.graph_passes.rewriting.fusions.fold_relu import FoldReluPass
from onnx_cbp.graph_passes.rewriting.fusions.recompute_relu import RecomputeReluPass
from onnx_cbp.graph_passes.rewriting.modes.drop_training_outputs import DropTrainingOutputsPass
from onnx_cbp.graph_passes.rewriting.modes.freeze import FreezePass, Freezing
from onnx_cbp.graph_passes.rewriting.modes.train_batch_norms import TrainBatchNormsPass
from onnx_cbp.graph_passes.rewriting.replace_backward import ReplaceBackwardPass
from onnx_cbp.graph_passes.rewriting.replace_forward import ReplaceForwardPass
from onnx_cbp.graph_passes.rewriting.running_statistics.write_early import WriteEarlyPass
from onnx_cbp.graph_passes.rewriting.running_statistics.write_running_stats import WriteRunningStatsPass

__all__ = [
    "AttachFunctionsPass",
    "BackwardSite",
    "CancelTransposesPass",
    "ChannelsLastPass",
    "CompleteGradientsPass",
    "DecomposePass",
    "DropTrainingOutputsPass",
    "DropZeroBiasPass",
    "ExplicitPadsPass",
    "FoldAffinePass",
    "FoldBatchNormPass",
    "FoldConstantsPass",
    "FoldReluPass",
    "FoldShapesPass",
    "ForwardSite",
    "FreezePass",
    "Freezing",
    "InferenceSite",
    "InlineAllFunctionsPass",
    "InlineBranchesPass",
    "InlineFunctionsPass",
    "LeftAlone",
    "RecomputeReluPass",
    "ReduceGradientsPass",
    "RemoveUnusedPass",
    "ReplaceBackwardPass",
    "ReplaceForwardPass",
    "RestoreBiasesPass",
    "ScalarRangesPass",
    "SeparateMergedPass",
    "SetOutputsPass",
    "Site",
    "SpellOutPass",
    "SplitSquaresPass",
    "SqueezeEinsumsPass",
    "Synchronization",
    "ToInferencePass",
    "TrainBatchNormsPass",
    "UnpackSequencesPass",
    "UnshareFixedPass",
    "WholeBatchLossPass",
    "WriteEarlyPass",
    "WriteRunningStatsPass",
    "find_sites",
    "label",
]
