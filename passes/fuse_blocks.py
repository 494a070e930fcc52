# SPDX-License-Identifier: Apache-2.0
"""Fuse-blocks: the layers of a block become one kernel, so that what lies between them stays in the cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import ClassVar, Literal

import onnx_ir as ir

from edgefold.passes._subgraphs import bodies
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.fusion.byte_lookups import look_bytes_up
from edgefold.passes.fusion.channel_last import turn_channel_last
from edgefold.passes.fusion.conv_region import fuse_conv_regions
from edgefold.passes.fusion.cost import TYPICAL, Device
from edgefold.passes.fusion.feed_forward import fuse_feed_forward
from edgefold.passes.fusion.inverted_residual import fuse_inverted_residuals
from edgefold.passes.fusion.linear import fuse_linear
from edgefold.passes.fusion.packed_codes import pack_codes

Kind = Literal["feed-forward", "linear", "conv-region", "inverted-residual", "channel-last", "lookup"]
Fuse = Callable[[ir.Model, Context, Device], Notes]


class FuseBlocks(Pass, frozen=True, kw_only=True):
    """Replaces quantized layers that follow one another by one operator that keeps what lies between them in the cache.

    What it does, a kind of block at a time (Lavin, arXiv 2404.03617, block fusion):

    `feed-forward`: two linear layers with an activation or nothing between them, and the activation and the addition
    behind, become FusedFeedForward, which takes some rows through all of it before the next ones.

    `linear`: any other linear layer takes in the activation that alone reads it and the addition behind, as
    FusedLinear.

    `conv-region`: convolutions that hand tensors to each other hand on 8-bit codes, channel-last, in place of floats;
    each becomes a FusedConvBlock with its activation and the addition behind it. Pooling by maximum, concatenation,
    padding, slicing, nearest resizing and depth to space between them work on codes too, where whole factors and blocks
    move all channels of a pixel at once; and so does squeeze and excitation: CodeMean sums codes, CodeGate multiplies
    their channels. Where readers want a tensor in codes of several scales, it is written in one of them, or in that of
    its own range, and CodeLookup takes it to the others. Only where such a region meets the rest of the graph are there
    floats. Convolutions of one dimension work on images of one row there; an axis comes and goes where floats do. A Pad
    of zeros before a convolution, and a Slice that cuts off behind one what its padding made, as causal convolutions
    have them, become its padding.

    `inverted-residual`: of a region, the 1x1, depthwise and 1x1 convolutions of a block become FusedInvertedResidual,
    which keeps some rows of the wide tensors in a ring. It joins what `conv-region` made. Bottlenecks and ConvFirst
    blocks stay three nodes, since rows that stream through them were measured to gain nothing; the report's table says
    what they move.

    `channel-last`: float images between quantized convolutions and layers that work on pixels, as in ConvNeXt, lie
    [batch, height, width, channels], so that the transpositions between the two are gone and `feed-forward` can take
    the addition behind one in.

    `lookup`: where a model is given the bytes of images, channel-last, and scales them itself, CodeLookup takes them to
    the codes of the first convolution by a table.

    When it fires: on nodes that ``quantize`` made; so it comes after it, and after everything that trains or refits.
    Activations are recognized by what they compute, whatever nodes an exporter wrote them with. Whether a feed-forward
    or inverted residual block pays is decided by the bytes that either way moves and the cache levels of the device
    that hold them; the report's table has a row for every block. A tensor becomes codes where all that read it can read
    codes.

    When it does not: on convolutions in the bodies of If, Loop and Scan, where the values between two layers are read
    elsewhere or are outputs of the model, where the fused form would move its bytes more slowly, where convolutions
    have three dimensions, float activations or channels with steps of their own, where an image is one long row and has
    none to stream (`inverted-residual`), and where images channel-last would mean more transpositions. Each is a skip
    with its reason; so is every addition, gate and mean between convolutions that stays float: an output, something
    float that makes or reads it, no calibration data for one that no convolution reads or whose readers want several
    scales, or the user's wish.

    Numerics: lossy, in three respects: a residual between convolutions is added as its codes, of which the next
    convolution would have read the same ones, so that its sum is half a step off at most; and so are the factors of an
    excitation multiplied with codes, whose scale is calibrated; and what readers want in several scales is rounded
    twice for some of them. ``residuals: float`` keeps all three as they were. All else is reassociated: integer sums,
    scales and codes are those of the separate nodes, bit for bit, and activation functions other than clippings are
    those of the kernels, within 2^-21 of the argument.

    Example: ``y = ShiftConv(Relu(ShiftConv(x, ...)), ...)`` becomes
    ``y = FusedConvBlock(FusedConvBlock(x, ...), ...)``.

    Attributes:
        kinds: the kinds of blocks to fuse; all where none is named.
        device: where the model will run: `local`, this machine, or a name in ``targets/devices``.
        residuals: `codes`, or `float`: additions, excitations and what readers want in several scales stay outside of
            the regions, and every output what it was.
        four_bits: how codes of four bits lie (``quantize`` with ``activations: 4`` and ``groups: 1``) that nothing but
            these operators makes and reads: in `bytes`, or `packed`, two a byte. Results are the same; packed, a
            detector of 640x640 pixels took 0.78 of the memory at its peak and 1.16 times the time.
    """

    effect: ClassVar[Effect] = Effect.LOSSY
    verified_by: ClassVar[Literal["kernels", "functions"]] = "functions"

    kinds: tuple[Kind, ...] = ()
    device: str = "local"
    residuals: Literal["codes", "float"] = "codes"
    four_bits: Literal["bytes", "packed"] = "bytes"

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        from onnx_ir.passes.common import RemoveUnusedNodesPass  # these take a second to import

        from edgefold.ops import add_functions

        device = context.device(self.device) if context.device else TYPICAL
        notes = Notes(skips=tuple(_inside(model.graph)), stats={"device": device.name})
        for kind, fuse in self._fusions().items():
            if not self.kinds or kind in self.kinds:
                before = _taken(model.graph)
                later = fuse(model, context, device)
                notes = _joined(notes, later, _taken(model.graph) - before)
        if self.four_bits == "packed":
            notes = _joined(notes, pack_codes(model.graph), ())
        if notes.edits:
            RemoveUnusedNodesPass()(model)  # scales and bounds of activations that operators hold now
        add_functions(model)
        return notes

    def _fusions(self) -> Mapping[Kind, Fuse]:
        """What can be fused, in the order in which it is looked for."""
        return {
            "conv-region": functools.partial(fuse_conv_regions, residuals=self.residuals),
            "inverted-residual": fuse_inverted_residuals,
            "channel-last": turn_channel_last,
            "lookup": look_bytes_up,
            "feed-forward": fuse_feed_forward,
            "linear": fuse_linear,
        }


def _inside(graph: ir.Graph) -> Iterator[Skip]:
    """A Skip for each node of the main graph in whose bodies there are quantized convolutions."""
    for node in graph:
        layers = [one for body in bodies(node) for one in body.all_nodes() if one.op_type == "ShiftConv"]
        if layers:
            detail = f"quantized convolutions in it that stay nodes of their own: {len(layers)}"
            yield Skip(node_label(node), SkipReason.SUBGRAPH, detail)


def _taken(graph: ir.Graph) -> set[str]:
    """The nodes that fused ones stand for."""
    fused = (
        node.metadata_props for node in graph.all_nodes() if node.metadata_props.get("edgefold.pass") == "fuse-blocks"
    )
    return {name for properties in fused for name in properties.get("edgefold.from", "").split(",")}


def _joined(first: Notes, second: Notes, taken: Collection[str]) -> Notes:
    """Both, without what the first left alone and the second took."""
    return Notes(
        first.edits + second.edits,
        tuple(skip for skip in first.skips if skip.node not in taken) + second.skips,
        {**first.stats, **second.stats},
        first.table + second.table,
    )
