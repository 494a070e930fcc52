# SPDX-License-Identifier: Apache-2.0
"""The same networks as optimizers and quantizers rewrite them: ONNX Runtime's, and onnxsim where it is installed.

Made from the committed `char_lm` and from what the data folder (EDGEFOLD_DATA) holds of the models below.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx

MODELS = Path(__file__).resolve().parents[1]
SOURCES = {"minilm": "bert", "gpt_charlm": "gpt2", "vit_mnist": "vit", "cifar_resnet56": ""}
"""Model of the data folder -> its type for ONNX Runtime's transformer optimizer."""
LEVELS = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}


def at_level(level: str, source: Path, path: Path) -> None:
    """As a session writes it after optimizing."""
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def fused(kind: str, source: Path, path: Path) -> None:
    """With the fused operators of ONNX Runtime's transformer optimizer."""
    optimizer = importlib.import_module("onnxruntime.transformers.optimizer")
    optimizer.optimize_model(str(source), model_type=kind, opt_level=0).save_model_to_file(str(path))


def quantized(source: Path, path: Path) -> None:
    """With dynamic int8 quantization."""
    importlib.import_module("onnxruntime.quantization").quantize_dynamic(str(source), str(path))


def simplified(source: Path, path: Path) -> None:
    """As onnxsim writes it."""
    onnx.save(importlib.import_module("onnxsim").simplify(str(source))[0], str(path))


def catalogue() -> dict[str, Callable[[Path], None]]:
    """Name -> a function that writes the file."""
    data = os.environ.get("EDGEFOLD_DATA")
    sources = {"char_lm": (MODELS / "char_lm" / "model.onnx", "gpt2")}
    for name, kind in SOURCES.items() if data else ():
        if (path := Path(str(data)) / name / "model.onnx").exists():
            sources[name] = (path, kind)
    found: dict[str, Callable[[Path], None]] = {}
    for name, (path, kind) in sources.items():
        found |= {f"{name}_ort_{level}": partial(at_level, full, path) for level, full in LEVELS.items()}
        found[f"{name}_int8"] = partial(quantized, path)
        if kind:
            found[f"{name}_fused"] = partial(fused, kind, path)
        if importlib.util.find_spec("onnxsim"):
            found[f"{name}_onnxsim"] = partial(simplified, path)
    return found
