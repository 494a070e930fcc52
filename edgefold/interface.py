# SPDX-License-Identifier: Apache-2.0
"""What a model takes and gives, as ONNX Runtime sees it: names, element types, shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefold.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnxruntime as ort

_DTYPES: dict[str, type[Any]] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "string": np.object_,
}


@dataclass(frozen=True)
class Port:
    """One input or output of a model.

    Attributes:
        name: the name in the graph.
        kind: ONNX Runtime's name of the type: "tensor(float)".
        shape: one entry a dimension: a size, the name of a dynamic dimension, or None where it has no name.
    """

    name: str
    kind: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the tensor's elements.

        Raises:
            ModelError: the port is no tensor (a sequence or a map), or of a type numpy cannot hold.
        """
        element = self.kind.removeprefix("tensor(").removesuffix(")")
        if not self.kind.startswith("tensor(") or element not in _DTYPES:
            raise ModelError(f"'{self.name}' is of type {self.kind}; EdgeFold feeds and reads tensors of numpy types")
        return np.dtype(_DTYPES[element])

    def __str__(self) -> str:
        return f"{self.name} {self.kind} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class ModelInterface:
    """What a model takes and gives, in the graph's order.

    Attributes:
        inputs: those without a default.
        outputs: all.
        optional: the inputs with a default (overridable initializers).
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    optional: tuple[Port, ...] = ()

    @classmethod
    def of(cls, session: ort.InferenceSession) -> ModelInterface:
        """Reads the interface of a session."""
        optional = _ports(session.get_overridable_initializers())
        return cls(_ports(session.get_inputs()), _ports(session.get_outputs()), optional)

    def require_tensors(self) -> ModelInterface:
        """Itself.

        Raises:
            ModelError: an output is a sequence, a map or optional, which nothing here compares.
        """
        for port in self.outputs:
            if not port.kind.startswith("tensor("):
                raise ModelError(f"output '{port.name}' is of type {port.kind}; EdgeFold compares tensors only")
        return self

    def output(self, name: str | None, where: str) -> Port:
        """The output called ``name``; the only output, where the model has just one.

        Raises:
            UsageError: there is no such output; the message begins with ``where`` and lists what there is.
        """
        from edgefold.errors import UsageError

        if name is not None:
            for port in self.outputs:
                if port.name == name:
                    return port
        if len(self.outputs) == 1:
            return self.outputs[0]
        wanted = "names no output" if name is None else f"names the output '{name}', which the model does not have"
        raise UsageError(f"{where} {wanted}; its outputs are {', '.join(port.name for port in self.outputs)}")


def _ports(arguments: Sequence[ort.NodeArg]) -> tuple[Port, ...]:
    return tuple(Port(one.name, one.type, tuple(_size(size) for size in one.shape or ())) for one in arguments)


def _size(size: object) -> int | str | None:
    # ORT gives 0 or -1 for an unset dimension of some exporters; both mean "dynamic".
    if isinstance(size, int):
        return size if size > 0 else None
    return str(size) if size else None
