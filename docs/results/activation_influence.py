# SPDX-License-Identifier: Apache-2.0
"""What codes of one layer's inputs cost the logits of a classifier, layer by layer: with one step and with shifts.

Part of docs/results/shiftquant.md. Codes are chosen on the calibration split and judged on images of the evaluation
split. All other layers stay float, and the layer's bias takes the mean error, as `quantize` lets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from rows import inputs, model_and_task

from edgefold.calibration import Calibration
from edgefold.files.loading import load_model
from edgefold.interface import ModelInterface
from edgefold.passes import FoldBatchnorm, Simplify
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.quantization.activation_codes import MOST_GROUPS, channel_gram, sampled_rows
from edgefold.passes.quantization.channel_shifts import choose_static
from edgefold.passes.quantization.shift_nodes import Activation
from edgefold.passes.quantization.step_costs import error_of
from edgefold.pipeline import Feeds, raise_to_minimum_opset, run_recipe
from edgefold.session import make_session

BITS = 6
IMAGES = 50
SHOWN = 5
FORMS = {"one step": 1, "shifts": MOST_GROUPS}


def measured_influence(data: Path, name: str) -> dict[str, Any]:
    """How far the logits are above the error that codes of each convolution's input make, in dB."""
    path, task = model_and_task(data, name)
    given = inputs(path, task)
    model, _ = raise_to_minimum_opset(load_model(path).model, given)
    model = run_recipe(model, (Simplify(), FoldBatchnorm()), given)
    calibration = Calibration(model, given.calibration)
    images = [one.feeds for one in task.batches(ModelInterface.of(make_session(path)), "eval", IMAGES)]
    proto = giving_logits(ir.serde.serialize_model(model))
    original = logits(proto, images)
    sites = [one for one in map(weighted_node, model.graph) if isinstance(one, WeightedNode) and one.kind == "conv"]
    layers = []
    for number, site in enumerate(sites[1:-1], 2):
        assert site.geometry is not None
        rows, gram = sampled_rows(site, calibration), channel_gram(site)
        kind = "x".join(map(str, site.geometry.kernel)) + (" depthwise" if site.geometry.group > 1 else "")
        layer: dict[str, Any] = {"layer": f"{number}, {kind}", "channels": rows.shape[1]}
        for form, groups in FORMS.items():
            codes = choose_static(rows, gram, BITS, groups)
            changed = logits(with_codes(proto, str(site.node.name), codes, error_of(rows, codes).mean(axis=0)), images)
            layer[form] = 10 * float(np.log10(np.square(original).sum() / np.square(changed - original).sum()))
        layers.append(layer)
    return {"model": name, "layers": layers}


def with_codes(original: onnx.ModelProto, name: str, codes: Activation, mean: np.ndarray) -> onnx.ModelProto:
    """The model with the input of one convolution rounded to codes, their mean error [C] taken off."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    index, node = next((i, one) for i, one in enumerate(model.graph.node) if one.name == name)
    steps = codes.scale * np.exp2(np.array(codes.shifts or (0,), np.float32)).reshape(1, -1, 1, 1)
    constants = {"steps": steps, "low": np.float32(codes.low), "high": np.float32(codes.high)}
    constants["mean"] = mean.reshape(1, -1, 1, 1)
    for key, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), f"codes/{key}"))
    chain = [("Div", "steps"), ("Round",), ("Clip", "low", "high"), ("Mul", "steps"), ("Sub", "mean")]
    value = node.input[0]
    for place, (operator, *operands) in enumerate(chain):
        out = f"codes/{place}"
        coded = helper.make_node(operator, [value, *(f"codes/{one}" for one in operands)], [out])
        model.graph.node.insert(index + place, coded)
        value = out
    node.input[0] = value
    return model


def giving_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what its last Softmax reads as its only output."""
    last = [node for node in model.graph.node if node.op_type == "Softmax"][-1]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    return model


def logits(model: onnx.ModelProto, images: Sequence[Feeds]) -> np.ndarray:
    """Of every image, float32 [N, K]."""
    session = make_session(model.SerializeToString(), threads=1)
    return np.concatenate([session.run(None, feeds)[0] for feeds in images])


def influence_section(measured: Mapping[str, Any]) -> list[str]:
    """The lines of the page: the layers whose codes cost most, and the others together."""
    layers = sorted(measured["layers"], key=lambda one: float(one["one step"]))
    lines = ["| convolution | channels | one step | shifts |", "|---|---|---|---|"]
    for one in layers[:SHOWN]:
        lines.append(f"| {one['layer']} | {one['channels']} | {one['one step']:.1f} | {one['shifts']:.1f} |")
    for title, some in ((f"the other {len(layers) - SHOWN} together", layers[SHOWN:]), ("all together", layers)):
        sums = [-10 * np.log10(sum(10 ** (-one[form] / 10) for one in some)) for form in FORMS]
        lines.append(f"| {title} | | {sums[0]:.1f} | {sums[1]:.1f} |")
    return lines
