# SPDX-License-Identifier: Apache-2.0
"""Prints what one model needs at most to be loaded and run, in bytes above ONNX Runtime with a model of one node.

    python docs/results/peak_memory.py MODEL [1x3x224x224]

One thread, a process of its own; zeros of the given shape, or with 1 for every dimension that is not fixed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

from edgefold.interface import ModelInterface
from edgefold.measuring.measure import peak_rss, reset_peak_rss
from edgefold.session import make_session

SMALL = '<ir_version: 9, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }'


def main(path: Path, shape: tuple[int, ...] | None) -> None:
    once(onnx.parser.parse_model(SMALL).SerializeToString(), None)
    reset_peak_rss()
    before = peak_rss()
    once(path, shape)
    print(peak_rss() - before)


def once(model: bytes | Path, shape: tuple[int, ...] | None) -> None:
    session = make_session(model, threads=1)
    [port] = ModelInterface.of(session).inputs
    sizes = shape or [size if isinstance(size, int) else 1 for size in port.shape]
    for _ in range(3):
        session.run(None, {port.name: np.zeros(sizes, port.dtype)})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2].split("x"))) if len(sys.argv) > 2 else None)
