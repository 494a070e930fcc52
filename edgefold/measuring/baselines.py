# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's own compressed forms of a model, built as well as its tools can, to be compared with."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgefold.errors import ModelError, UsageError
from edgefold.files.loading import load_model
from edgefold.files.opset import raise_opset
from edgefold.files.saving import save_model
from edgefold.interface import ModelInterface
from edgefold.measuring.machine import this_machine
from edgefold.session import make_session

if TYPE_CHECKING:
    from edgefold.scoring.task import Task

Kind = Literal["ort-fp32", "ort-int8", "ort-int8-static", "ort-int8-dynamic", "ort-int4"]
KINDS: tuple[Kind, ...] = ("ort-fp32", "ort-int8", "ort-int8-static", "ort-int8-dynamic", "ort-int4")

# Below opset 13 ONNX has no scales per channel, which ORT's per-channel forms need.
_PER_CHANNEL_OPSET = 13
_MAX_CALIBRATION_SAMPLES = 512
_RANGE = " (7-bit range, as ORT advises without VNNI)"
# ONNX Runtime's levels of severity; it starts at warnings and cannot be asked.
_WARNINGS, _ERRORS_ONLY = 2, 3


@dataclass(frozen=True)
class Baseline:
    """One form of the model.

    Attributes:
        kind: what was asked for.
        path: the file.
        note: how it was made, and what it leaves in float.
    """

    kind: Kind
    path: Path
    note: str


def build_baseline(model: Path, kind: str, task: Task | None, folder: Path) -> Baseline:
    """Builds one of ONNX Runtime's forms of a float model.

    ``ort-int8`` is static QDQ (unsigned activations, signed weights per channel, calibrated by minima and maxima on the
    task's calibration split) where a task gives calibration data, else dynamic. ``ort-int4`` is MatMulNBits with
    blocks of 32 and accuracy level 4 (int8 products).

    Args:
        model: the float model's file.
        kind: one of `KINDS`.
        task: calibrates the static form.
        folder: where the file is written.

    Raises:
        UsageError: an unknown kind, or a static form without calibration data.
        ModelError: ONNX Runtime's tool cannot do it; the message says at what it stopped.
    """
    if kind not in KINDS:
        raise UsageError(f"--against {kind}: expected one of {', '.join(KINDS)}")
    calibrated = task is not None and task.has_calibration
    if kind == "ort-int8-static" and not calibrated:
        raise UsageError("ort-int8-static needs a task with calibration data; give -d TASK, or use ort-int8-dynamic")
    target = folder / f"{kind}.onnx"
    with _quiet(), tempfile.TemporaryDirectory(prefix="edgefold-ort-") as scratch:
        try:
            float_model, remark = _float_form(model, Path(scratch))
            if kind == "ort-fp32":
                note = _kept(model, float_model, target)
            elif kind == "ort-int4":
                note = _int4(float_model, target)
            elif task is not None and calibrated and kind != "ort-int8-dynamic":
                note = _static(float_model, target, task)
            else:
                note = _dynamic(float_model, target)
        except (UsageError, ModelError):
            raise
        except Exception as error:
            # ORT's quantizer raises whatever it meets; a bench goes on without this row and says why.
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ModelError(f"{model}: ONNX Runtime's quantizer cannot make {kind}: {text}") from error
    path = target if target.exists() else model
    return Baseline(next(one for one in KINDS if one == kind), path, "; ".join(one for one in (note, remark) if one))


def _float_form(model: Path, scratch: Path) -> tuple[Path, str]:
    """The float model as ONNX Runtime serves it best, and what was changed for that.

    Weights that an old exporter lists as inputs become constants, without which nothing is folded; an opset that has no
    scales per channel is raised.
    """
    loaded = load_model(model)
    old = (loaded.model.opset_imports.get("") or _PER_CHANNEL_OPSET) < _PER_CHANNEL_OPSET
    if not old and not loaded.notes:
        return loaded.path, ""
    raised = raise_opset(loaded.model)[0] if old else loaded.model
    path = scratch / "float.onnx"
    save_model(raised, path)
    parts = ["weights made constants"] if loaded.notes else []
    return path, ", ".join(parts + (["opset raised"] if old else []))


def _kept(model: Path, float_model: Path, target: Path) -> str:
    if float_model != load_model(model).path:
        save_model(load_model(float_model).model, target)
    return ""


def _static(model: Path, target: Path, task: Task) -> str:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    # Its symbolic inference needs sympy and fails on many exporters; onnx's own inference is enough here.
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)

    def quantize(**options: bool) -> None:
        quantize_static(
            str(prepared),
            str(target),
            _reader(prepared, task),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            reduce_range=_saturates(),
            extra_options=options,
        )

    try:
        quantize()
    except ValueError:
        # ORT 1.31.1 compares arrays as numbers when it adjusts the scales of a Gemm with bias; it can do without.
        quantize(QDQDisableWeightAdjustForInt32Bias=True)
    finally:
        prepared.unlink(missing_ok=True)
    return f"static QDQ, u8 activations, s8 weights per channel{_RANGE if _saturates() else ''}"


def _saturates() -> bool:
    """Whether this processor adds pairs of u8 x s8 products in 16 bits, as x86 without VNNI does.

    There ONNX Runtime's documentation advises weights of 7 bits; with 8 it is faster nowhere and less accurate.
    """
    machine = this_machine()
    return machine.architecture == "x86_64" and not {"avx512_vnni", "avx_vnni"} & set(machine.features)


def _dynamic(model: Path, target: Path) -> str:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # ORT's dynamic convolution (ConvInteger) is slower than float; it is the choice only where nothing else is there.
    linear = ["MatMul", "Gemm", "Gather", "Attention", "LSTM"]
    if {"MatMul", "Gemm"} & _operators(model):
        short = _saturates()
        signed = QuantType.QInt8
        quantize_dynamic(str(model), str(target), linear, per_channel=True, reduce_range=short, weight_type=signed)
        floats = "; Conv stays float" if "Conv" in _operators(model) else ""
        return f"dynamic, s8 weights per channel{_RANGE if short else ''}{floats}"
    quantize_dynamic(str(model), str(target), weight_type=QuantType.QUInt8)
    return "dynamic, u8 weights"


def _int4(model: Path, target: Path) -> str:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(model), block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=False)
    done = "MatMulNBits" in _operators(target)
    floats = [name for name in ("Conv", "Gemm", "Gather") if name in _operators(model)]
    note = "MatMulNBits, block 32, accuracy level 4" if done else "has no MatMul that MatMulNBits takes: all float"
    stays = "stays" if len(floats) == 1 else "stay"
    return f"{note}; {', '.join(floats)} {stays} float" if done and floats else note


def _operators(model: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(model, load_external_data=False).graph.node}


def _reader(model: Path, task: Task) -> Any:
    """The task's calibration batches in the form that ORT's calibrator reads."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            interface = ModelInterface.of(make_session(model))
            self._batches = task.batches(interface, "calibration", _MAX_CALIBRATION_SAMPLES)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            batch = next(self._batches, None)
            return None if batch is None else batch.feeds

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantizer's log lines and warnings, meant for its own users, off the screen."""
    import onnxruntime as ort

    root = logging.getLogger()
    disabled, handlers, level = root.manager.disable, list(root.handlers), root.level
    logging.disable(logging.WARNING)
    ort.set_default_logger_severity(_ERRORS_ONLY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        # Importing the quantizer installs a handler on the root logger, which would print our own lines twice.
        root.handlers[:], root.level = handlers, level
        logging.disable(disabled)
        ort.set_default_logger_severity(_WARNINGS)
