# SPDX-License-Identifier: Apache-2.0
"""Heal: train what a lossy pass damaged, so that the model does again what the original does."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.passes.base import OPTION, Context, Edit, Effect, Notes, Pass, PreconditionError, Skip, SkipReason

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
LossName = Literal["output", "tail", "blockwise", "pairs", "labels"]
Distance = Literal["error", "error+cosine", "batch-kl"]
Augmentation = Literal["flip", "crop", "warp", "colour", "mix", "patch", "splice", "swap"]
View = Literal["flip", "shift"]

DEFAULT_EPOCHS = 10
DEFAULT_RATE = 3e-3
DEFAULT_RATE_OF_QUANTIZED = 2e-4
SIZE_OF_ZEROS = 0.01  # a step relative to a tensor that is all zeros, such as fresh biases, is relative to this


class Heal(Pass, frozen=True, kw_only=True):
    """Trains the weights of the model to give the original's outputs again; needs torch (``edgefold[heal]``).

    What it does: the model is trained by gradient descent on the task's calibration data, of which ``held_out`` is
    set aside; the weights that were best on that part are kept, the ones it came with included. The evaluation set is
    never read. Names, structure and every tensor that is not a weight stay as they are.

    When it fires: with a task that has calibration data, on any model whose operators have a gradient.
    Quantized layers of `ai.edgefold` are trained in the integers that ship (quantization-aware training): each code
    follows a float weight, scales and static activation steps are learned (LSQ, Esser et al. 2019, section 2.1).
    The tables that groups chose, the activation shifts, and dynamic steps stay.

    When it does not: the node without a gradient is named. A file of several depths is refused: heal it before
    `elastic-depth`.

    Numerics: lossy.

    Example: ``{pass: prune-channels, ...}`` then ``{pass: heal, epochs: 20, loss: [output, tail]}``.

    Attributes:
        loss: what is made small, added up; label-free except for `labels`. `output`: distance to the original's
            outputs, by kind (classes: KL divergence; embeddings: cosine; others: mean squared error). `tail`: relative
            squared error of the last hidden tensors that both models have in the same shape. `blockwise`: of all of
            them. `pairs`: of those that ``pairs`` names. `labels`: the task's own target.
        pairs: hidden tensors to compare, student's and original's name, instead of those found. Found is what enters
            layers of the same name, as after a removed block, else what has the same name.
        distance: of hidden tensors: relative squared `error`; `error+cosine`: and the cosine distance along the last
            axis; `batch-kl`: KL divergence of softmaxes along the batch, which FuseGPT's code has (an ablation).
        warm_up: share of the training in which only the hidden tensors of `blockwise` are compared.
        train: what is trained: `all`, `matrices` (two dimensions or more), `vectors` (biases, scales of
            normalizations), and names or globs of weights or of the nodes that read them; several are added up.
        adapters: rank of low-rank adapters that are trained in place of the matrices (LoRA, Hu et al. 2021) and then
            folded into them; a matrix that has fewer numbers than its adapter is trained itself.
        epochs: passes over the training part; 10 where neither ``steps`` nor ``minutes`` is given.
        steps: instead, steps of the optimizer.
        minutes: instead, minutes of training.
        learning_rate: at its highest, after a linear warm-up; it then falls to 0 along a cosine. `adamw` takes it
            relative to the root mean square of each tensor. 0.003 where it is not given, or 0.0002 for a model with
            quantized layers: at more, codes that were rounded with care flip faster than the loss can tell them apart.
        optimizer: `adamw`, or `sgd` with Nesterov momentum 0.9.
        weight_decay: decoupled for `adamw`.
        gradient_bits: integer training (arXiv 2411.10948): the backward products of quantized layers multiply integers
            too, with gradients rounded stochastically to codes of so many bits (8 in layers of 8-bit weights); float
            where it is not given.
        precision: of the products where the model learns; with `bfloat16` a step takes less time on processors that
            have instructions for it. It is judged in float32 either way. Not for quantized layers.
        clip: largest norm of the gradient.
        temperature: of the KL divergence (Hinton et al. 2015, section 2).
        batch: samples a step, over all processes.
        augment: changes made at random and shown to both models. Of images: `flip` left to right, `crop` shifts by up
            to an eighth of the side, `warp` magnifies by up to 1.4 either way and turns by up to 15 degrees, `colour`
            changes brightness, contrast and saturation, `mix` blends with another image of the batch, `patch` puts a
            rectangle of another in (named together, each image takes one of the two). Of sequences of tokens:
            `splice`, every second one goes on as another of the batch from some position, and `swap`, up to half of the
            tokens become others of the model's vocabulary, most of which the samples lack. Two samples in one have no
            label, so mix, patch and splice are for label-free losses only.
        teacher_views: ways to look at an image over which the original's answer is averaged, whatever both models are
            shown: `flip`, also mirrored left to right; `shift`, also moved by a thirty-second of the side towards each
            corner; of both, all combinations. The mean is that of the classes at ``temperature``, or of other outputs
            as they are, and knows more than one view does; hidden tensors stay those of what the model itself is
            shown. For images with one answer each, where a mirrored image means the same. `flip` costs another
            forward pass of the original a step, `shift` four, both nine.
        samples: of the calibration data, from the start; all where it is not given, also where the task names fewer.
        held_out: share of them that training never sees, for early stopping.
        patience: epochs without a better held-out loss before training stops; 0 never stops.
        device: `auto` takes CUDA where there is one.
        threads: of torch and ONNX Runtime; 0 leaves the choice to them.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    loss: tuple[LossName, ...] = ("output",)
    pairs: tuple[tuple[str, str], ...] = ()
    distance: Distance = "error"
    warm_up: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    train: tuple[str, ...] = ("all",)
    adapters: Count | None = None
    epochs: Count | None = None
    steps: Count | None = None
    minutes: Positive | None = None
    learning_rate: Positive | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    gradient_bits: Annotated[int, msgspec.Meta(ge=2, le=8)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    clip: Positive = 1.0
    temperature: Positive = 2.0
    batch: Count = 64
    augment: tuple[Augmentation, ...] = ()
    teacher_views: tuple[View, ...] = ()
    samples: Count | None = None
    held_out: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    patience: Annotated[int, msgspec.Meta(ge=0)] = 10
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        lengths = [name for name in ("epochs", "steps", "minutes") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"{' and '.join(lengths)} both say how long to train; give one of them")
        if not self.loss:
            raise ValueError("loss names nothing to make small; take output")
        if "pairs" in self.loss and not self.pairs:
            raise ValueError("loss pairs compares the tensors of the option pairs, which names none")
        hidden = self.warm_up or {"tail", "blockwise", "pairs"} & set(self.loss)
        for name in ("pairs", "distance"):
            if self.given(name) and not hidden:
                raise ValueError(f"{name} is of hidden tensors, which loss does not read; add pairs, tail or blockwise")
        if not self.train:
            raise ValueError("train names nothing to train; take all")
        if self.teacher_views and "output" not in self.loss:
            raise ValueError("teacher_views averages outputs, which only the loss output reads; leave it out")
        mixing = [name for name in ("mix", "patch", "splice") if name in self.augment]
        if mixing and "labels" in self.loss:
            raise ValueError(f"augment {mixing[0]} mixes samples, for which there are no labels; take one of the two")

    def requires(self, model: ir.Model) -> None:
        options = [value.name for value in model.graph.inputs if OPTION in value.metadata_props]
        if options:
            why = f"the input `{options[0]}` chooses its depth, and training would see the full one only"
            raise PreconditionError("model", f"{why}; heal before elastic-depth")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if context.heal is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION),))
        try:
            stats = context.heal(model, self)
        except PreconditionError as error:
            return Notes(skips=(Skip("model", SkipReason.FALLBACK, str(error)),))
        edits = (Edit("model", f"trained for {stats['steps']} steps"),) if stats["best_step"] else ()
        return Notes(edits, stats=stats)
