# SPDX-License-Identifier: Apache-2.0
"""Large weights handed to ONNX Runtime where they lie, in memory or in the user's own file.

A model is opened many times on its way; written out for each session, the weights of one of 2.6 GB would be 35 GB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgefold.files.external import EXTERNAL_ABOVE, is_large, places, weight_bytes
from edgefold.files.serialization import serialize

if TYPE_CHECKING:
    import onnxruntime as ort

_NUMPYS_OWN = frozenset(
    (
        *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL),
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    )
)


@dataclasses.dataclass(frozen=True)
class SharedWeights:
    """A model for a session that reads its large weights from where they are.

    Attributes:
        around: the message, which says that the weights lie elsewhere.
        arrays: the weights by name. ONNX Runtime points into them, so they must live as long as the session.
    """

    around: bytes
    arrays: Mapping[str, np.ndarray[Any, Any]]

    def add_to(self, options: ort.SessionOptions) -> None:
        """Tell a session to come where the weights are."""
        import onnxruntime as ort

        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in self.arrays.values()]
        options.add_external_initializers(list(self.arrays), values)


def share_weights(model: ir.Model) -> SharedWeights | None:
    """The model without its large weights, or None where too much would be left inside.

    Args:
        model: not changed; its tensors must stay what they are while the session lives.
    """
    shared = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.uses() and not value.is_graph_input()
        if _can_be_shared(value.const_value)
    }
    layout, held = places(shared.values())
    if weight_bytes(model) - held > EXTERNAL_ABOVE:
        return None
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in shared.items()}
    return SharedWeights(serialize(model, layout), arrays)


def _can_be_shared(tensor: ir.TensorProtocol) -> bool:
    """Whether it is large and there as an array, in memory or mapped; one inside a message would be copied first."""
    inside = isinstance(tensor, ir.serde.TensorProtoTensor)
    return tensor.dtype in _NUMPYS_OWN and is_large(tensor) and not inside
