# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: a status line for what takes over a second, plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("edgefold")
QUIET_SECONDS = 1.0  # work shorter than this shows nothing


def _lasting(record: logging.LogRecord) -> bool:
    """Whether a record is worth a line of its own; one with ``extra={"passing": True}`` is only for the status line."""
    return not getattr(record, "passing", False)


class _StatusHandler(logging.Handler):
    """Shows the newest message as a spinner line, from the second second on."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        from rich.console import Console

        self.console = Console(stderr=True)
        self.status = self.console.status("")
        self.started = time.monotonic()
        self.shown = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.console.print(record.getMessage(), style="yellow", markup=False, highlight=False)
            return
        if time.monotonic() - self.started < QUIET_SECONDS:
            return
        if not self.shown:
            self.status.start()
            self.shown = True
        self.status.update(record.getMessage().replace("[", r"\["))

    def close(self) -> None:
        if self.shown:
            self.status.stop()
        super().close()


@contextlib.contextmanager
def progress(level: str) -> Iterator[None]:
    """Show the log of EdgeFold on stderr: a status line at level ``info`` on a terminal, else plain lines."""
    handler: logging.Handler
    if level == "info" and sys.stderr.isatty():
        handler = _StatusHandler()
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.addFilter(_lasting)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.setLevel({"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}[level])
    log.setLevel(logging.DEBUG if level == "debug" else logging.INFO)
    log.addHandler(handler)
    others = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]  # warn of what is in order here
    for other in others:
        other.setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
    try:
        yield
    finally:
        for other in others:
            other.setLevel(logging.NOTSET)
        log.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append the log of EdgeFold to a file while the block runs."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.addFilter(_lasting)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    previous = log.level
    if log.level in (logging.NOTSET, logging.WARNING):
        log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.setLevel(previous)
