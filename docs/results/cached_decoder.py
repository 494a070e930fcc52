# SPDX-License-Identifier: Apache-2.0
"""A GPT with a key/value cache, token by token: perplexity, and the time of a step at several lengths of the past.

    python docs/results/cached_decoder.py perplexity [--rows 48]     # gpt_charlm of EDGEFOLD_DATA, rebuilt with a cache
    python docs/results/cached_decoder.py steps [--seconds 8]        # 6 layers of 512, 8 heads, random weights

Both need torch. Forms of the model: ``float32``; ``int8 dynamic``, ONNX Runtime's quantize_dynamic with its defaults,
and with the products of attention quantized too; ``w8``, EdgeFold's 8-bit weights of method shift, and behind them
quantize-attention with a cache of floats and with one of codes. A step of a form binds its inputs and leaves its
outputs in ONNX Runtime; forms take turns at single steps.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import edgefold

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "models"), str(ROOT / "runtime" / "bench")]
PASTS = (128, 512, 1024, 2048)
HEADS_OF_CHARLM = 4
ATTENTION_TOO = "int8 dynamic, attention too"
QUANTIZE = "  - {pass: quantize, weights: 8, method: shift, rounding: nearest}\n"
RECIPES = {
    "attention alone": "steps:\n  - {pass: quantize-attention, cache: int8}\n",
    "w8": f"steps:\n{QUANTIZE}",
    "w8, attention, float cache": f"steps:\n{QUANTIZE}  - {{pass: quantize-attention}}\n",
    "w8, attention, int8 cache": f"steps:\n{QUANTIZE}  - {{pass: quantize-attention, cache: int8}}\n",
}


def forms(model: Path, folder: Path) -> dict[str, Path]:
    """The model's forms by name."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, folder / "int8.onnx")
    everything = {"MatMulConstBOnly": False}
    quantize_dynamic(model, folder / "all.onnx", extra_options=everything)
    made = {"float32": model, "int8 dynamic": folder / "int8.onnx", ATTENTION_TOO: folder / "all.onnx"}
    for place, (name, text) in enumerate(RECIPES.items()):
        recipe = folder / f"recipe{place}.yaml"
        recipe.write_text(text)
        edgefold.compress(model, folder / f"out{place}", recipe=str(recipe))
        made[name] = folder / f"out{place}" / "model.onnx"
    return made


def opened(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.register_custom_ops_library(str(edgefold.ops_library()))
    return ort.InferenceSession(str(path), options)


def past_of(session: ort.InferenceSession, batch: int, length: int) -> dict[str, np.ndarray]:
    """A past of seeded random numbers for every input that holds one."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for one in session.get_inputs():
        if not one.name.startswith("past"):
            continue
        shape = (batch, one.shape[1], length, one.shape[3])
        if one.type == "tensor(int8)":
            made[one.name] = rng.integers(-127, 128, shape).astype(np.int8)
        elif one.name.endswith("_scales"):
            made[one.name] = np.full(shape, 0.02, np.float32)
        else:
            made[one.name] = rng.standard_normal(shape).astype(np.float32)
    return made


def perplexity(session: ort.InferenceSession, x: np.ndarray, y: np.ndarray) -> float:
    """Of rows of tokens, fed one position a step."""
    names = [one.name for one in session.get_outputs()]
    past = past_of(session, len(x), 0)
    losses = []
    for position in range(x.shape[1]):
        outputs = dict(zip(names, session.run(None, {"input_ids": x[:, position : position + 1], **past}), strict=True))
        past = {name: outputs[name.replace("past", "present")] for name in past}
        logits = outputs["logits"][:, 0].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        chosen = np.take_along_axis(logits, y[:, position, None].astype(np.int64), 1)[:, 0]
        losses.append(np.log(np.exp(logits).sum(-1)) - chosen)
    return float(np.exp(np.mean(losses)))


def step(session: ort.InferenceSession, past: int) -> Callable[[], Any]:
    binding = session.io_binding()
    feeds = {"input_ids": np.zeros((1, 1), np.int64), **past_of(session, 1, past)}
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for one in session.get_outputs():
        binding.bind_output(one.name)
    return lambda: session.run_with_iobinding(binding)


def print_perplexity(rows: int, folder: Path) -> None:
    from cached_gpt import export, load_gpt

    data = Path(os.environ["EDGEFOLD_DATA"])
    texts = np.load(data / "tinyshakespeare" / "val.npz")
    x, y = texts["x"][:rows].astype(np.int64), texts["y"][:rows]
    model = folder / "gpt.onnx"
    export(load_gpt(data / "gpt_charlm" / "model.onnx", HEADS_OF_CHARLM), model, "torchscript")
    for name, path in forms(model, folder).items():
        print(f"{name:<28} {perplexity(opened(path), x, y):.4f}", flush=True)


def print_steps(seconds: float, folder: Path) -> None:
    import torch
    from cached_gpt import CachedGPT, Form, export
    from taking_turns import taking_turns

    torch.manual_seed(0)
    model = folder / "gpt.onnx"
    export(CachedGPT(Form(256, 2304, 512, 8, 8, 6)).eval(), model, "torchscript")
    sessions = {name: opened(path) for name, path in forms(model, folder).items()}
    for past in PASTS:
        times = taking_turns({name: step(one, past) for name, one in sessions.items()}, seconds)
        for name, taken in times.items():
            ratio = min(times["float32"]) / min(taken)
            print(f"{past:>5} {name:<28} {min(taken) / 1000:>8.2f} ms {ratio:>6.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("perplexity", "steps"))
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=8.0, help="per length of the past")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "perplexity":
            print_perplexity(options.rows, Path(folder))
        else:
            print_steps(options.seconds, Path(folder))


if __name__ == "__main__":
    main()
