# SPDX-License-Identifier: Apache-2.0
"""Where the windows of convolutions and poolings lie: padding, explicit or by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import BoundNode, UnsupportedNodeError


@dataclass(frozen=True)
class Windows:
    """The geometry of a convolution or pooling over its spatial axes.

    Attributes:
        kernel: window size an axis.
        strides, dilations: steps an axis.
        begins, ends: explicit padding an axis.
        rule: NOTSET, VALID, SAME_UPPER or SAME_LOWER (`auto_pad`); the SAME rules depend on the input's size.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    rule: str

    @classmethod
    def of(cls, node: BoundNode, kernel: Sequence[int]) -> Windows:
        """Reads a node's attributes.

        Raises:
            UnsupportedNodeError: more than three spatial axes.
        """
        rank = len(kernel)
        if not 1 <= rank <= 3:
            raise UnsupportedNodeError(f"has {rank} spatial axes; 1 to 3 can be trained")
        pads = node.integers("pads") or [0] * (2 * rank)
        rule = node.text("auto_pad", "NOTSET")
        if rule == "VALID":
            pads = [0] * (2 * rank)
        return cls(
            tuple(kernel),
            tuple(node.integers("strides") or [1] * rank),
            tuple(node.integers("dilations") or [1] * rank),
            tuple(pads[:rank]),
            tuple(pads[rank:]),
            rule,
        )

    @property
    def fixed_symmetric(self) -> bool:
        """Whether the padding is the same on both sides and independent of the input's size."""
        return not self.rule.startswith("SAME") and self.begins == self.ends

    def padding(self, sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The padding before and after each axis of an input of these spatial sizes."""
        if not self.rule.startswith("SAME"):
            return self.begins, self.ends
        totals = [
            max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            for size, kernel, stride, dilation in zip(sizes, self.kernel, self.strides, self.dilations, strict=True)
        ]
        less, more = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
        return (less, more) if self.rule == "SAME_UPPER" else (more, less)

    def pad(self, x: Tensor, value: float, extra: Sequence[int] | None = None) -> Tensor:
        """The input with its padding written out, and `extra` more at the end of each axis."""
        begins, ends = self.padding(x.shape[2:])
        if extra is not None:
            ends = tuple(end + more for end, more in zip(ends, extra, strict=True))
        pairs = [size for pair in zip(reversed(begins), reversed(ends), strict=True) for size in pair]
        return functional.pad(x, pairs, value=value) if any(pairs) else x

    def overhang(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """For ceil_mode: how far the last window of each axis reaches beyond the padded input.

        A window that would begin in the padding after the input is left out, as in ONNX Runtime.
        """
        begins, ends = self.padding(sizes)
        found = []
        for axis, size in enumerate(sizes):
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            stride, padded = self.strides[axis], size + begins[axis] + ends[axis]
            last = -(-(padded - reach) // stride) * stride
            last -= stride if last >= size + begins[axis] else 0
            found.append(max(last + reach - padded, 0))
        return tuple(found)
