# SPDX-License-Identifier: Apache-2.0
"""The metric on calibration data, of a model or of two that were each fitted to half of these data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from edgefold.scoring.evaluate import Evaluation, evaluate
from edgefold.scoring.intervals import confidence_interval
from edgefold.scoring.metrics import METRICS

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgefold.interface import ModelInterface
    from edgefold.scoring.task import Task


def calibration_metric(task: Task, interface: ModelInterface, *models: ir.Model) -> Evaluation:
    """The metric of one model on all batches, or of the first of two on the odd ones and the second on the even ones.

    Args:
        task: its calibration data have the metric's target.
        interface: of the models; it says how large a batch is.
        models: one, or two.
    """
    scores = [evaluate(model, task, split="calibration") for model in models]
    if len(scores) == 1:
        return scores[0]
    first, second = scores
    batch = next(task.batches(interface, "calibration")).rows
    units = len(first.per_sample)
    samples = np.arange(units) * (first.samples // units)  # the first of each unit: a sample, or a pair of them
    odd = samples // batch % 2 == 1
    rows = np.where(odd[:, None], first.per_sample, second.per_sample)
    metric = METRICS[first.metric]
    return dataclasses.replace(first, value=metric.value(rows), ci95=confidence_interval(metric, rows), per_sample=rows)
