# SPDX-License-Identifier: Apache-2.0
"""Options that several commands of the command line take, alike in all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

MODEL = click.option("-m", "--model", required=True, help="An ONNX file, or an output folder of compress.")
TASK = click.option("-d", "--data", "task", help="Task file (YAML): how the model is fed and scored.")
THREADS = click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
INPUT = click.option("--input", "inputs", multiple=True, metavar="NAME=NUMBER", help="Of an optional input: depth=3.")
SHAPE = click.option("--shape", "shapes", multiple=True, metavar="INPUT=1x128", help="Sizes of dynamic dimensions.")


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command takes: how much to tell, and in which form."""
    log_level = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning"]),
        default="info",
        help="What to show on stderr; debug adds tracebacks.",
    )
    form = click.option(
        "--format",
        "form",
        type=click.Choice(["text", "json"]),
        default="text",
        help="json prints one JSON document and nothing else on stdout.",
    )
    return form(log_level(command))
