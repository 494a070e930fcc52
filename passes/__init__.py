# SPDX-License-Identifier: Apache-2.0
"""The passes of EdgeFold, one a file, in the order in which they are listed to users."""

if __name__ != "edgefold.passes":
    raise ImportError("import edgefold.passes; the folder passes/ is reached only through the package")

from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, PreconditionError, Skip, SkipReason
from edgefold.passes.compress_experts import CompressExperts
from edgefold.passes.dispatch_experts import DispatchExperts
from edgefold.passes.elastic_depth import ElasticDepth
from edgefold.passes.equalize_channels import EqualizeChannels
from edgefold.passes.fold_batchnorm import FoldBatchnorm
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fuse_experts import FuseExperts
from edgefold.passes.fuse_layers import FuseLayers
from edgefold.passes.heal import Heal
from edgefold.passes.l1_normalization import L1Normalization
from edgefold.passes.low_rank import LowRank
from edgefold.passes.merge_experts import MergeExperts
from edgefold.passes.prune_channels import PruneChannels
from edgefold.passes.prune_experts import PruneExperts
from edgefold.passes.quantize import Quantize
from edgefold.passes.quantize_attention import QuantizeAttention
from edgefold.passes.remove_blocks import RemoveBlocks
from edgefold.passes.share_weights import ShareWeights
from edgefold.passes.simplify import Simplify
from edgefold.passes.subpixel_conv import SubpixelConv

__all__ = [
    "PASSES",
    "Context",
    "Edit",
    "Effect",
    "FuseBlocks",
    "FuseExperts",
    "FuseLayers",
    "Heal",
    "Notes",
    "Pass",
    "PreconditionError",
    "Skip",
    "SkipReason",
]

PASSES: tuple[type[Pass], ...] = (
    Simplify,
    FoldBatchnorm,
    SubpixelConv,
    DispatchExperts,
    RemoveBlocks,
    FuseLayers,
    PruneChannels,
    ShareWeights,
    MergeExperts,
    PruneExperts,
    CompressExperts,
    LowRank,
    EqualizeChannels,
    L1Normalization,
    Quantize,
    QuantizeAttention,
    Heal,
    ElasticDepth,
    FuseBlocks,
    FuseExperts,
)
