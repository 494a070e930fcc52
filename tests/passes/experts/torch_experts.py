# SPDX-License-Identifier: Apache-2.0
"""Mixture-of-experts layers as model code writes them, and their exports by both of torch's exporters."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional

D, F, E, K = 16, 24, 4, 2
Exporter = Literal["legacy", "dynamo"]


class Router(nn.Module):
    """Softmax before the choice, gates that add up to one; subclasses choose otherwise."""

    def __init__(self, experts: int = E) -> None:
        super().__init__()
        self.weight = nn.Linear(D, experts, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, chosen = torch.topk(functional.softmax(self.weight(x), dim=-1), K, dim=-1)
        return values / values.sum(dim=-1, keepdim=True), chosen


class SoftmaxAfter(Router):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, chosen = torch.topk(self.weight(x), K, dim=-1)
        return functional.softmax(values, dim=-1), chosen


class Unnormalized(Router):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, chosen = torch.topk(functional.softmax(self.weight(x), dim=-1), K, dim=-1)
        return values, chosen


class BiasedSigmoid(Router):
    """DeepSeek-V3: chosen by a biased score, weighted by the score itself, normalized and scaled."""

    def __init__(self, experts: int = E) -> None:
        super().__init__(experts)
        self.bias = nn.Parameter(torch.randn(experts) / 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.sigmoid(self.weight(x))
        _, chosen = torch.topk(scores + self.bias, K, dim=-1)
        values = scores.gather(1, chosen)
        return 2.5 * values / (values.sum(dim=-1, keepdim=True) + 1e-20), chosen


class Switch(Router):
    """One expert a token, weighted by its probability."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, chosen = torch.topk(functional.softmax(self.weight(x), dim=-1), 1, dim=-1)
        return values, chosen


class ArgmaxSwitch(Router):
    """The same by `max`, which is exported as ReduceMax and ArgMax."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, chosen = torch.max(functional.softmax(self.weight(x), dim=-1), dim=-1, keepdim=True)
        return values, chosen


class SwiGlu(nn.Module):
    def __init__(self, width: int = F) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(D, width, bias=False), nn.Linear(D, width, bias=False)
        self.w2 = nn.Linear(width, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class Gelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, F), nn.Linear(F, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x)))


class Layer(nn.Module):
    """Tokens [batch, tokens, D] through a router and `mix`."""

    def __init__(self, router: nn.Module | None = None, expert: type[nn.Module] = SwiGlu) -> None:
        super().__init__()
        self.router = router or Router()
        self.prepare(expert)

    def prepare(self, expert: type[nn.Module]) -> None:
        self.experts = nn.ModuleList(expert() for _ in range(E))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        gates, chosen = self.router(flat)
        return x + self.mix(flat, gates, chosen).reshape(x.shape)

    def mix(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        raise NotImplementedError


class Loop(Layer):
    """transformers 4: every expert on the tokens that a one-hot mask finds."""

    def mix(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        mask = functional.one_hot(chosen, E).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            place, token = torch.where(mask[number])
            total.index_add_(0, token, expert(x[token]) * gates[token, place, None])
        return total


class DenseLoop(Layer):
    """Every expert on all tokens, times a column of dense gates."""

    def mix(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        dense = torch.zeros(x.shape[0], E).scatter(1, chosen, gates)
        total = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            total = total + expert(x) * dense[:, number, None]
        return total


class Stacked(Layer):
    """Weights of all experts in one tensor."""

    def prepare(self, expert: type[nn.Module]) -> None:
        self.gate_up = nn.Parameter(torch.randn(E, D, 2 * F) / 6)
        self.down = nn.Parameter(torch.randn(E, F, D) / 7)

    @staticmethod
    def act(hidden: Tensor) -> Tensor:
        gate, up = hidden.chunk(2, dim=-1)
        return functional.silu(gate) * up


class Einsum(Stacked):
    def mix(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        dense = torch.zeros(x.shape[0], E).scatter(1, chosen, gates)
        hidden = self.act(torch.einsum("td,edf->tef", x, self.gate_up))
        return torch.einsum("tef,efd,te->td", hidden, self.down, dense)


class Batched(Stacked):
    """Llama 4: the tokens repeated for every expert, one batched product."""

    def mix(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        dense = torch.zeros(x.shape[0], E).scatter(1, chosen, gates)
        hidden = self.act(torch.bmm(x.unsqueeze(0).expand(E, -1, -1), self.gate_up))
        return (torch.bmm(hidden, self.down) * dense.transpose(0, 1)[..., None]).sum(dim=0)


class GatherBatched(Stacked):
    """transformers 5, `batched_mm`: the matrices of the chosen experts gathered for every token."""

    def mix(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        tokens = torch.arange(x.shape[0]).unsqueeze(1).expand(-1, chosen.shape[1]).reshape(-1)
        which = chosen.reshape(-1)
        hidden = self.act(torch.bmm(x[tokens].unsqueeze(1), self.gate_up[which]))
        out = torch.bmm(hidden, self.down[which]).squeeze(1) * gates.reshape(-1, 1)
        return out.view(x.shape[0], chosen.shape[1], D).sum(dim=1)


class StackedLoop(Stacked):
    """Stacked weights, interleaved gate and up, clamped, with biases: the loop of gpt-oss."""

    def prepare(self, expert: type[nn.Module]) -> None:
        super().prepare(expert)
        self.gate_up_bias = nn.Parameter(torch.randn(E, 2 * F) / 5)
        self.down_bias = nn.Parameter(torch.randn(E, D) / 5)

    def mix(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        mask = functional.one_hot(chosen, E).permute(2, 1, 0)
        for number in range(E):
            place, token = torch.where(mask[number])
            hidden = x[token] @ self.gate_up[number] + self.gate_up_bias[number]
            gate, up = hidden[..., ::2].clamp(max=7.0), hidden[..., 1::2].clamp(min=-7.0, max=7.0)
            mixed = (up + 1) * gate * torch.sigmoid(gate * 1.702)
            out = mixed @ self.down[number] + self.down_bias[number]
            total.index_add_(0, token, out * gates[token, place, None])
        return total


class Shared(Loop):
    """An expert that every token goes through, beside the chosen ones."""

    def prepare(self, expert: type[nn.Module]) -> None:
        super().prepare(expert)
        self.always = SwiGlu()

    def mix(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        return super().mix(x, gates, chosen) + self.always(x)


class Incomplete(Loop):
    """What an exporter makes of a loop over the experts that its example was routed to."""

    def prepare(self, expert: type[nn.Module]) -> None:
        super().prepare(expert)
        self.experts = self.experts[:-2]


class Only(nn.Module):
    """A residual connection around a layer of someone else, which may give router logits too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        return x + (found[0] if isinstance(found, tuple) else found)


def export(layer: nn.Module, exporter: Exporter) -> ir.Model:
    """A layer as an ONNX model from `x` to `y`, both [batch, tokens, D] with dynamic axes."""
    x = torch.randn(2, 5, D)
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    layer.eval()
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = {"x": {0: torch.export.Dim("b"), 1: torch.export.Dim("s")}}
            program = torch.onnx.export(layer, (x,), dynamo=True, opset_version=21, dynamic_shapes=shapes, **names)
            assert program is not None
            return ir.from_proto(program.model_proto)
        buffer, axes = io.BytesIO(), {"x": {0: "b", 1: "s"}}
        torch.onnx.export(layer, (x,), buffer, dynamo=False, opset_version=18, dynamic_axes=axes, **names)
        return ir.from_proto(onnx.load_model_from_string(buffer.getvalue()))


def store(folder: Path) -> None:
    """Writes what the exporter by dynamo makes of every form, which takes it minutes."""
    for kind in (Loop, DenseLoop, StackedLoop, Einsum, Batched, GatherBatched):
        torch.manual_seed(0)
        model = export(kind(), "dynamo")
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces
            node.doc_string = None
        for value in (value for node in model.graph.all_nodes() for value in node.outputs):
            value.metadata_props.clear()
        model.metadata_props.clear()
        ir.save(model, folder / f"{kind.__name__}.onnx")


if __name__ == "__main__":
    store(Path(__file__).parent / "dynamo")
