# SPDX-License-Identifier: Apache-2.0
"""Finished steps of a compression, kept beside the output until it is complete, for ``--resume``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgefold.files.loading import load_model
from edgefold.files.saving import save_model

log = logging.getLogger("edgefold")


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The folder ``.<output>.steps`` with the model after the last finished step.

    Attributes:
        folder: where the model and ``state.json`` lie.
        fingerprint: of input model, recipe, task, data and version; steps of another run are never taken up.
    """

    folder: Path
    fingerprint: str

    @classmethod
    def beside(cls, output: Path, fingerprint: str, resume: bool) -> Checkpoints:
        """The checkpoints of ``output``; without ``resume`` those of an earlier run are discarded."""
        checkpoints = cls(output.with_name(f".{output.name}.steps"), fingerprint)
        if not resume:
            checkpoints.discard()
        return checkpoints

    def save(self, finished: int, model: ir.Model, records: Sequence[Mapping[str, Any]]) -> None:
        """Remember that ``finished`` steps are done and what the model is now."""
        self.folder.mkdir(exist_ok=True)
        name = f"after-{finished}.onnx"
        save_model(model, self.folder / name)
        state = {"fingerprint": self.fingerprint, "finished": finished, "model": name, "records": list(records)}
        temporary = self.folder / "state.json.new"
        temporary.write_text(json.dumps(state, default=str), encoding="utf-8")
        temporary.replace(self.folder / "state.json")
        for old in self.folder.glob("after-*"):
            if not old.name.startswith(f"after-{finished}."):
                old.unlink()

    def resume(self, model: ir.Model) -> tuple[int, ir.Model, list[Mapping[str, Any]]]:
        """How many steps are done, the model after them, and their records; zero and ``model`` when none fit."""
        path = self.folder / "state.json"
        if not path.is_file():
            return 0, model, []
        with contextlib.suppress(ValueError, KeyError):  # a state cut short by a crash counts as none
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["fingerprint"] == self.fingerprint:
                saved = load_model(self.folder / state["model"]).model
                log.info("resuming after %d finished steps", state["finished"])
                return int(state["finished"]), saved, list(state["records"])
        log.warning("--resume: the finished steps beside the output belong to another call; starting over")
        return 0, model, []

    def discard(self) -> None:
        """Remove the folder, if there is one."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)
