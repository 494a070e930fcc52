# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph as a trainable torch module, and back: same names, same structure, every untouched byte kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass
from torch import Tensor

from edgefold.errors import ModelError
from edgefold.heal.operators import OPERATORS
from edgefold.heal.operators.node import torch_tensor
from edgefold.heal.packed_weights import packed_weights
from edgefold.heal.program import Compiler, Program
from edgefold.heal.weights import stored_floats, weights

SPACINGS = 5.0  # at a learning rate of 1e-3 a latent weight needs 200 steps from one level to the next


class GraphModule(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """A model that torch can run and differentiate, its parameters under the names of the model's initializers.

    All computing is in float32 (float64 where the graph says so); half-precision weights become float32 parameters and
    are rounded once, when written back. An initializer read at several places is one parameter. Which stored tensors
    are parameters: see `edgefold.heal.weights`. The codes of a quantized layer of `ai.edgefold` are a parameter too: it
    has their name and holds latent weights float32 [K, N], which are rounded to the layer's levels at each call, and
    when they are written back (see `edgefold.heal.packed_weights`). Other model-local functions run as their bodies.

    Args:
        model: not changed, and not referred to afterwards.
        gradient_bits: 2 to 8 rounds the gradients of quantized layers to codes of so many bits (8 in layers of 8-bit
            weights), so that the backward products multiply integers too: see `edgefold.heal.integer`. None leaves them
            float.

    Attributes:
        least_steps: for some parameters, by name, the smallest magnitude that a relative step is taken of. A
            latent weight acts only when it gets past the middle between two levels, so it takes steps by the distance
            of the levels where that is large.

    Raises:
        ModelError: an operator has no trainable form; the message names the node. See `supports`.
    """

    def __init__(self, model: ir.Model, gradient_bits: int | None = None) -> None:
        super().__init__()
        # TensorFloat-32 keeps 10 bits of the mantissa, too few to stay equal to ONNX Runtime.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        stored, packed = weights(model), packed_weights(model)
        self._program, refused = _compile(model, gradient_bits)
        if refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise ModelError(f"{refused[0]}{more}; healing needs a model without it")
        for name, tensor in stored.items():
            # torch refuses dots in names; the names of initializers have them, and nothing but the refusal minds.
            self._parameters[name] = torch.nn.Parameter(torch_tensor(tensor))
        for name, matrix in packed.items():
            self._parameters[name] = torch.nn.Parameter(torch.from_numpy(matrix.latent()))
        self.least_steps = {name: SPACINGS * matrix.spacing for name, matrix in packed.items()}
        self._inputs = _fed(model)
        self._outputs = tuple(str(value.name) for value in model.graph.outputs)

    def forward(self, feeds: Mapping[str, Tensor], taps: Sequence[str] = ()) -> dict[str, Tensor]:
        """Runs the graph.

        Args:
            feeds: input name -> tensor of the input's type (any float type is taken as float32).
            taps: names of further values of the main graph to return.

        Returns:
            Outputs and taps by name. What QuantizeLinear gives is float with whole numbers: integers have no gradient.

        Raises:
            ModelError: a feed is missing, or a tap names no value.
        """
        program = self._program
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise ModelError(f"the input '{missing[0]}' is not fed; the model's inputs are {', '.join(self._inputs)}")
        environment = program.environment(self._device(feeds))
        for name, parameter in self._parameters.items():
            environment[program.slots[name]] = parameter
        for name in self._inputs:
            environment[program.slots[name]] = _as_computed(feeds[name])
        wanted = dict.fromkeys((*self._outputs, *taps))
        unknown = [name for name in wanted if name not in program.slots and name not in program.constants]
        if unknown:
            raise ModelError(f"the model has no value '{unknown[0]}' that could be observed")
        program.run(environment, [program.slots[name] for name in wanted if name in program.slots])
        return {
            name: environment[program.slots[name]] if name in program.slots else program.constants[name]
            for name in wanted
        }

    def write_back(self, model: ir.Model) -> None:
        """Puts the parameters' values into the model's stored tensors; those that did not change keep their bytes.

        Args:
            model: the one this module was made from, or a clone; changed in place.

        Raises:
            ModelError: the model lacks a stored tensor of a parameter's name and shape.
        """
        stored = {str(value.name): (value, tensor) for value, tensor in stored_floats(model)}
        shapes = _shapes(model)
        for name, parameter in self._parameters.items():
            if shapes.get(name) != tuple(parameter.shape):
                raise ModelError(f"the model has no stored tensor '{name}' of the shape {list(parameter.shape)}")
            if name in stored and not torch.equal(parameter.detach().cpu(), torch_tensor(stored[name][1])):
                _store(*stored[name], parameter.detach().cpu().numpy())
        for name, matrix in packed_weights(model).items():  # with the scales that were written just now
            matrix.store(self._parameters[name].detach().cpu().numpy())

    def _load_from_state_dict(
        self,
        state: Mapping[str, Any],
        prefix: str,
        metadata: Mapping[str, Any],
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        # torch takes what stands before a dot for a submodule and would call every such key unexpected.
        super()._load_from_state_dict(state, prefix, metadata, False, missing, unexpected, errors)
        if strict:
            own = {prefix + name for name in self._parameters}
            missing.extend(sorted(own - state.keys()))
            unexpected.extend(sorted(key for key in state.keys() - own if key.startswith(prefix)))

    def _device(self, feeds: Mapping[str, Tensor]) -> torch.device:
        for tensor in (*self._parameters.values(), *feeds.values()):
            return tensor.device
        return torch.device("cpu")


def supports(model: ir.Model) -> list[str]:
    """Why a model cannot become a GraphModule: one line for each node without a trainable form; empty if it can."""
    text = [f"input '{value.name}' holds text" for value in model.graph.inputs if value.dtype == ir.DataType.STRING]
    return [*text, *_compile(model)[1]]


def _compile(model: ir.Model, gradient_bits: int | None = None) -> tuple[Program, list[str]]:
    inlined = model.clone()
    for key in [key for key in inlined.functions if key[:2] in OPERATORS]:
        del inlined.functions[key]  # trained in its integers, through which its body passes no gradient
    if inlined.functions:
        InlinePass()(inlined)
    refused: list[tuple[str, str, str]] = []
    versions = {("" if domain == "ai.onnx" else domain): version for domain, version in inlined.opset_imports.items()}
    compiler = Compiler(versions, _fed(model), _shapes(model), refused, gradient_bits=gradient_bits)
    program = compiler.compile(inlined.graph)
    return program, [f"node '{name}' ({operator}) {why}" for name, operator, why in refused]


def _shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its name."""
    shapes = {name: tuple(tensor.shape.numpy()) for name, tensor in weights(model).items()}
    return shapes | {name: packed.matrix.codes.shape for name, packed in packed_weights(model).items()}


def _fed(model: ir.Model) -> tuple[str, ...]:
    """The inputs, without initializers that are listed among them as defaults: these are weights like any other."""
    return tuple(str(value.name) for value in model.graph.inputs if not value.is_initializer())


def _as_computed(feed: Tensor) -> Tensor:
    return feed.float() if feed.dtype in (torch.float16, torch.bfloat16) else feed


def _store(value: ir.Value, old: ir.TensorProtocol, array: np.ndarray[Any, Any]) -> None:
    new = ir.tensor(array.astype(old.numpy().dtype), dtype=ir.DataType(old.dtype), name=old.name)
    producer = value.producer()
    if producer is None:
        value.const_value = new
        return
    kept = next(name for name in producer.attributes if name.startswith("value"))
    attribute = producer.attributes[kept]
    if attribute.type == ir.AttributeType.TENSOR:
        producer.attributes[kept] = ir.AttrTensor(kept, new)
    elif attribute.type == ir.AttributeType.FLOATS:
        producer.attributes[kept] = ir.AttrFloat32s(kept, [float(x) for x in array])
    else:
        producer.attributes[kept] = ir.AttrFloat32(kept, float(array))
