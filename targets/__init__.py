# SPDX-License-Identifier: Apache-2.0
"""The targets of EdgeFold: each turns a compressed model into an artefact for one kind of runtime."""

if __name__ != "edgefold.targets":
    raise ImportError("import edgefold.targets; the folder targets/ is reached only through the package")

from edgefold.targets.base import Target
from edgefold.targets.cpu import Cpu

__all__ = ["TARGETS", "Target", "find_target"]

TARGETS: tuple[Target, ...] = (Cpu(),)


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: no such target; the message lists those there are.
    """
    from edgefold.errors import UsageError

    for target in TARGETS:
        if target.name == name:
            return target
    raise UsageError(f"--target {name}: unknown; there is {', '.join(t.name for t in TARGETS)}")
