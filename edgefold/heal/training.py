# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded, stoppable at any step, and ended by a part of the data that it never trains on.

All that is random depends on the seed and the step alone, so a training that goes on from a saved state, or is shared
by several processes, draws what an uninterrupted one in one process draws.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgefold.errors import UsageError
from edgefold.heal.augmentation import MIXING, Draw, augmented, mixed, swapped
from edgefold.heal.graph_module import GraphModule
from edgefold.heal.objective import Objective
from edgefold.heal.optimizer import make_optimizer
from edgefold.heal.processes import Processes
from edgefold.heal.progress import Epoch, Progress, TrainingFile
from edgefold.heal.samples import Samples
from edgefold.heal.schedule import learning_rate_factor
from edgefold.heal.teacher import Teacher
from edgefold.passes.heal import DEFAULT_EPOCHS, DEFAULT_RATE, DEFAULT_RATE_OF_QUANTIZED, Heal

log = logging.getLogger("edgefold")
SAVE_SECONDS = 60.0

Array = np.ndarray[Any, Any]


class Training:
    """One training of a student module.

    Args:
        student: ``student(feeds, taps)`` gives outputs and hidden tensors by name, as `GraphModule` does.
        objective: what to make small.
        samples: training and held-out rows.
        teacher: gives the tensors that the objective reads of the original.
        options: how long and how fast.
        seed: of order and augmentation.
        processes: that share each batch.
        saved: where the state is kept, or None to keep none.

    Raises:
        UsageError: the batch does not divide among the processes, or quantized layers are to learn in bfloat16.
    """

    def __init__(
        self,
        student: GraphModule,
        objective: Objective,
        samples: Samples,
        teacher: Teacher,
        options: Heal,
        seed: int,
        processes: Processes,
        saved: TrainingFile | None = None,
    ) -> None:
        if options.precision != "float32" and student.least_steps:
            raise UsageError(f"--precision {options.precision}: the model has quantized layers; take float32")
        self.progress = Progress()
        self._student = student.to(processes.device, memory_format=torch.channels_last)
        weights = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
        self._weights = list(weights.values())
        self._best = [weight.detach().clone() for weight in self._weights]
        self._rate = options.learning_rate or (DEFAULT_RATE_OF_QUANTIZED if student.least_steps else DEFAULT_RATE)
        self._optimizer = make_optimizer(weights, student.least_steps, options, self._rate)
        self._objective, self._samples, self._teacher = objective, samples, teacher
        self._options, self._seed, self._processes, self._saved = options, seed, processes, saved
        self._batch = _batch_size(options.batch, samples, processes)
        self._dealt = 0, samples.batches(self._batch, seed, 0)
        self._epoch_steps = len(self._dealt[1])
        self._saved_at = time.monotonic()

    def run(self) -> Progress:
        """Train, and leave the best weights in the student."""
        self._resume()
        module = self._processes.wrapped(self._student)
        if not self._options.augment and self._samples.padding is None:
            self._teacher.remember(self._samples, self._samples.chunk or self._batch)
        if not self.progress.history:
            self._judge(None)
        while not self._finished():
            with self._timed():
                rate = self._step(module)
            if self.progress.step % self._epoch_steps == 0 or self._share_done() >= 1:
                self._judge(rate)
            self._save(False)
        with torch.no_grad():
            for weight, best in zip(self._weights, self._best, strict=True):
                weight.copy_(best)
        return self.progress

    def _step(self, module: torch.nn.Module) -> float:
        """One step of the optimizer over a batch; returns its learning rate."""
        progress, options = self.progress, self._options
        epoch, position = divmod(progress.step, self._epoch_steps)
        batch = self._batches(epoch)[position]
        rate = self._rate * learning_rate_factor(self._share_done(ahead=1))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self._optimizer.zero_grad(set_to_none=True)
        chunks = self._chunks(self._processes.share(np.arange(len(batch))))
        random = np.random.default_rng([self._seed, progress.step])
        draw = Draw.of(random, len(batch))
        torch.manual_seed(int(random.integers(2**32)) + self._processes.rank)  # of the rounding of gradients
        loss = 0.0
        for positions in chunks:
            feeds = self._changed(batch, positions, draw) if options.augment else None
            part = self._loss(module, batch[positions], feeds, self._warming()) / len(chunks)
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(self._weights, options.clip)
        self._optimizer.step()
        progress.step += 1
        progress.loss_sum += loss
        progress.loss_count += 1
        self._tell(loss)
        return rate

    def _batches(self, epoch: int) -> Array:
        """Row numbers of an epoch's batches, dealt out once and not at each step."""
        if self._dealt[0] != epoch:
            self._dealt = epoch, self._samples.batches(self._batch, self._seed, epoch)
        return self._dealt[1]

    def _changed(self, batch: Array, positions: Array, draw: Draw) -> dict[str, Array]:
        """The feeds of some positions in the batch, augmented as drawn."""
        changes, own = self._options.augment, draw.take(positions)
        feeds = self._mixed(batch, positions, draw)
        vocabulary = self._samples.vocabulary
        return swapped(feeds, vocabulary, own) if "swap" in changes and vocabulary else feeds

    def _mixed(self, batch: Array, positions: Array, draw: Draw) -> dict[str, Array]:
        """The same before tokens are replaced."""
        changes, own = self._options.augment, draw.take(positions)
        if not MIXING & set(changes):
            return augmented(self._samples.take(batch[positions]), changes, own)
        partners = draw.partners[positions]
        both = self._samples.take(batch[np.concatenate([positions, partners])])  # padded to one length
        feeds, others = (
            {name: np.split(value, 2)[side] if value.ndim else value for name, value in both.items()} for side in (0, 1)
        )
        return mixed(augmented(feeds, changes, own), augmented(others, changes, draw.take(partners)), changes, own)

    def _loss(
        self, module: torch.nn.Module, rows: Array, changed: Mapping[str, Array] | None, warming: bool = False
    ) -> Tensor:
        """The objective on some rows, or on what augmentation made of them."""
        samples = self._samples
        feeds = samples.take(rows) if changed is None else changed
        wanted = self._teacher.of(samples, rows) if changed is None else self._teacher(feeds)
        fed = self._tensors(feeds)
        with self._arithmetic():
            given = module(fed, self._objective.of_student)
        labels = None if samples.labels is None else self._tensor(samples.labels[rows])
        loss: Tensor = self._objective(given, self._tensors(wanted), labels, fed, warming)
        return loss

    def _arithmetic(self) -> contextlib.AbstractContextManager[object]:
        """What the student's products are computed in: as asked where it learns, float32 where it is judged."""
        lower = self._options.precision == "bfloat16" and torch.is_grad_enabled()
        arithmetic: contextlib.AbstractContextManager[object] = torch.autocast(
            self._processes.device.type, torch.bfloat16, enabled=lower
        )
        return arithmetic

    def _judge(self, rate: float | None) -> None:
        """Score the held-out rows, remember the weights where they are the best, and write the epoch's record."""
        progress = self.progress
        with self._timed():
            held_out = self._held_out_loss()
        total, count = self._processes.sum(progress.loss_sum, progress.loss_count)
        record = Epoch(progress.step, total / count if count else None, held_out, rate, progress.seconds)
        progress.end_epoch(record)
        if self._warming():
            progress.worse = 0  # what is scored is not yet what is made small
        if progress.best_step == progress.step:
            for best, weight in zip(self._best, self._weights, strict=True):
                best.copy_(weight.detach())
        log.info("%s", record)
        self._save(progress.step > 0)

    def _held_out_loss(self) -> float:
        """Mean of the objective over the held-out rows, not augmented; each process computes its part."""
        rows = self._samples.held_out
        parts = self._chunks(rows, self._batch)[self._processes.rank :: self._processes.count]
        with torch.no_grad():
            losses = [float(self._loss(self._student, part, None)) * len(part) for part in parts]
        total, count = self._processes.sum(math.fsum(losses), sum(len(part) for part in parts))
        return total / count

    def _finished(self) -> bool:
        patience = self._options.patience
        impatient = 0 < patience <= self.progress.worse
        return impatient or self._share_done() >= 1 or not math.isfinite(self.progress.history[-1].held_out)

    def _share_done(self, ahead: int = 0) -> float:
        """Share of the training that is done, ``ahead`` steps from now; of the time where minutes limit it."""
        options, progress = self._options, self.progress
        if options.minutes is not None:
            per_step = progress.seconds / max(progress.step, 1)
            return self._processes.agreed((progress.seconds + ahead * per_step) / (60 * options.minutes))
        steps = options.steps or (options.epochs or DEFAULT_EPOCHS) * self._epoch_steps
        return (progress.step + ahead) / steps

    def _warming(self) -> bool:
        return self._share_done() < self._options.warm_up

    def _chunks(self, rows: Array, most: int | None = None) -> list[Array]:
        """Rows in portions that the model takes at once."""
        size = self._samples.chunk or most or len(rows)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        elapsed, processor = time.perf_counter(), time.process_time()
        yield
        self.progress.seconds += time.perf_counter() - elapsed
        self.progress.processor_seconds += time.process_time() - processor

    def _resume(self) -> None:
        if self._saved is None:
            return
        with torch.no_grad():
            progress = self._saved.load(self._state(), self._optimizer)
        if progress is not None:
            self.progress = progress
            log.info("resuming the training after step %d", progress.step)

    def _save(self, due: bool) -> None:
        """Save the state where it is due, in any case once a minute."""
        if self._saved is None or self._processes.rank:
            return
        if due or time.monotonic() - self._saved_at > SAVE_SECONDS:
            self._saved.save(self.progress, self._state(), self._optimizer)
            self._saved_at = time.monotonic()

    def _state(self) -> dict[str, list[Tensor]]:
        """The tensors that a training goes on from, beside those of the optimizer."""
        return {"weight": self._weights, "best": self._best}

    def _tell(self, loss: float) -> None:
        progress, done = self.progress, self._share_done()
        left = progress.seconds * (1 / done - 1) if done else 0.0
        epoch = 1 + progress.step // self._epoch_steps
        log.info(
            "healing: %3.0f %%, epoch %d, loss %.4g, best held out %.4g, at most %s left",
            100 * min(done, 1.0),
            epoch,
            loss,
            math.nan if progress.best_loss is None else progress.best_loss,
            clock(left),
            extra={"passing": True},
        )

    def _tensors(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: self._tensor(value) for name, value in arrays.items()}

    def _tensor(self, array: Array) -> Tensor:
        tensor = torch.from_numpy(np.asarray(array, order="C")).to(self._processes.device)
        if tensor.dtype == torch.float16:
            tensor = tensor.float()  # as GraphModule computes
        # A convolution keeps the order of its input; with channels last a training step takes two thirds of the time.
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def clock(seconds: float) -> str:
    """Minutes and seconds, as in 4:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _batch_size(asked: int, samples: Samples, processes: Processes) -> int:
    """The asked batch, or all rows where there are fewer, cut to what processes and a fixed batch divide."""
    unit = processes.count * (samples.chunk or 1)
    size = min(asked, len(samples.training)) // unit * unit
    if size == 0:
        raise UsageError(
            f"--batch {asked}: {processes.count} processes and a model of batch {samples.chunk or 'any'} need a "
            f"multiple of {unit}, and {len(samples.training)} samples to train on are at hand"
        )
    return size
