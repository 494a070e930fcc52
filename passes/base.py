# SPDX-License-Identifier: Apache-2.0
"""The pass contract: what a pass is given, what it must declare, and what it must say afterwards.

A pass is a frozen value whose fields are its options. The pipeline owns everything around it: it clones the
model, calls ``requires`` and ``rewrite``, verifies the result by the declared effect, and records the notes.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec
import onnx_ir as ir

from edgefold.passes._names import matches

if TYPE_CHECKING:
    from edgefold.passes.fusion.cost import Device
    from edgefold.passes.pruning.groups import Trace
    from edgefold.scoring.evaluate import Evaluation


OPTION = "edgefold.option"
"""Key of the metadata of an optional input that a pass added: the values that it may take, separated by commas."""


CACHES = "edgefold.caches"
"""Key of the model's metadata that lists its key/value caches of codes, as JSON: a list of mappings with the names of
the inputs `past` and `past_scales` and of the outputs `present` and `present_scales`."""


class Effect(enum.Enum):
    """How far the outputs of a rewritten model may be from those before; decides how the pipeline verifies."""

    EXACT = "exact"
    REASSOCIATED = "reassociated"
    LOSSY = "lossy"


class SkipReason(enum.StrEnum):
    """Why a node was left as it was. Every ``continue`` of a pass has one."""

    NOT_CONSTANT = "weight is not a constant"
    SHARED_WEIGHT = "weight has other readers that the pass cannot change"
    GRAPH_OUTPUT = "the value is a graph output"
    DTYPE = "unsupported data type"
    RANK = "unsupported rank"
    ATTRIBUTE = "unsupported attribute"
    DYNAMIC_SHAPE = "needs a static shape"
    SUBGRAPH = "inside a subgraph or function"
    NOT_FINITE = "weight holds NaN or infinity"
    EXCLUDED = "excluded by the user"
    WOULD_GROW = "the packed form would not be smaller"
    ALREADY_QUANTIZED = "already quantized"
    NO_CALIBRATION = "needs calibration data"
    TARGET_LACKS_OP = "the target lacks the operator"
    BELOW_THRESHOLD = "below the threshold"
    KEPT_WIDER = "kept at a higher width"
    FALLBACK = "fell back to a simpler method"
    NOT_APPLICABLE = "the model cannot take the pass"
    NO_NEIGHBOUR = "no neighbouring layer can take it in"
    BARRIER = "its channels have to stay"
    STATISTICS = "a normalization averages over its channels"
    OTHER_FACTOR = "its units lie across those that are pruned"
    NOTHING_TO_GAIN = "nothing to gain"
    INSEPARABLE = "it cannot be cut out"
    NO_EXPERTS = "no mixture-of-experts layers were found"
    NO_BLOCKS = "no repeated residual blocks were found"
    INCOMPLETE_TRACE = "an exporter left experts out"
    UNKNOWN_FORM = "written in a form that the pass does not know"
    NO_MATCH = "an override that fits none of its nodes"
    NOT_UNDERSTOOD = "it computes something else than was read of it"


@dataclasses.dataclass(frozen=True)
class Skip:
    """A node that a pass looked at and left alone, or treated with less than was asked for."""

    node: str
    reason: SkipReason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclasses.dataclass(frozen=True)
class Edit:
    """One change, named by the node it replaced or altered.

    Attributes:
        replaced: all nodes in whose place others stand, where an earlier pass may have left some of them alone.
    """

    node: str
    what: str
    replaced: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Notes:
    """What a pass did. ``bool(notes.edits)`` is its claim of having changed the model; the pipeline checks it.

    Attributes:
        stats: figures for the report.
        table: rows with the same keys, where there is more to show than figures.
        options: names of the optional inputs that it gave the model, each marked by `OPTION`; none may come unsaid.
        caches: names of the inputs whose floats it made codes with scales, each listed under `CACHES`.
    """

    edits: tuple[Edit, ...] = ()
    skips: tuple[Skip, ...] = ()
    stats: Mapping[str, float | int | str] = dataclasses.field(default_factory=dict)
    table: tuple[Mapping[str, Any], ...] = ()
    options: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()


class Calibrates(Protocol):
    """What passes may ask about the model's activations; see ``edgefold.calibration.Calibration``."""

    def moments(self, requests: Sequence[Any]) -> Mapping[Any, Any]: ...

    def halves(self, requests: Sequence[Any]) -> Mapping[Any, Any]: ...

    def ranges(self, tensors: Sequence[str]) -> Mapping[str, Any]: ...

    def peaks(self, requests: Sequence[Any]) -> Mapping[Any, Any]: ...

    def rows(self, requests: Sequence[Any], limit: int) -> Mapping[Any, Any]: ...

    def regressions(self, requests: Mapping[Any, Sequence[Any]], original: Any) -> Mapping[Any, Any]: ...

    def through(
        self, model: ir.Model, *, max_rows: int | None = None, half: int | None = None, remembers: bool = False
    ) -> Calibrates: ...


Perturb = Callable[[ir.Model, Iterable[Mapping[str, Any]]], Iterable[float]]
"""From a model some of whose inputs have defaults, and from other values for those, to the errors of its outputs.

A change is taken only when the error of the one before was taken, so that it may depend on it."""


Departure = Callable[[ir.Model, int | None], Callable[[ir.Model], float | None]]
"""From a model and a half of the batches (0: the even ones, 1: the odd ones, None: all) to a function that gives the
error of a changed model's outputs by those of the first, which stays as it is meanwhile; None without a batch."""


Scores = Callable[..., "Evaluation"]
"""From a model to the task's metric on calibration data; from two models to the metric of the first on the odd batches
and of the second on the even ones, so that each may have been fitted to the half that it is not judged by."""


Compute = Callable[[ir.Model], Callable[[Mapping[str, Any]], Mapping[str, Any]]]
"""From a model to a function from arrays for its inputs to arrays of its outputs, by their names."""


class Heals(Protocol):
    """Trains a model, in place, as the pass ``heal`` asks; see ``edgefold.heal.step``."""

    def __call__(
        self, model: ir.Model, options: Any, teacher: ir.Model | None = None
    ) -> Mapping[str, float | int | str]:
        """The numbers of the training's record; ``teacher`` is what is to be done again, the original if None."""


LearnGates = Callable[[ir.Model, Mapping[str, float], float], Mapping[str, float]]
"""Gates learnt jointly on calibration data (FoldGPT, arXiv 2407.00928).

From a model with gates (`passes.depth.gates.gated`: inputs of shape [1] whose default is 1), the multiply-accumulates
of the part behind each gate, and the share of their sum that may stay, to the gates' values, each near 0 or 1.
"""


@dataclasses.dataclass(frozen=True)
class Context:
    """What the pipeline hands to a pass beside the model.

    Attributes:
        calibration: statistics of the model's activations on the task's calibration split, or None without a task.
        exclude: node names or globs that no lossy pass may touch.
        seed: of every random choice.
        probe: runs a model twice and says which shapes and sizes were seen; see ``edgefold.probing.probe``.
        gradients: of the loss on the calibration data, from a model and whether they are to be multiplied by the
            Hessian: name of a parameter -> array of its shape; None without a task or without torch.
        heal: trains a model, in place, as the pass ``heal`` asks, and gives the numbers of its record; None without
            calibration data.
        synthetic: statistics on made-up inputs: `noise` with the moments of the calibration data, `none` without.
        operator_times: seconds of single operators; see ``edgefold.measuring.operator_times``.
        perturb: how far outputs move with other weights, on calibration data; see ``edgefold.perturbing``.
        divergence: as ``perturb``, but scores of classes, as the task's metric takes them, by their softmax.
        departure: the same of the outputs of another model, on all batches or half of them.
        metric: of the task on its calibration data; None without these, or where they lack the labels.
        learn_gates: learns which parts a model can do without; None without calibration data or without torch.
        macs: multiply-accumulates of the model's nodes, by their names, for one sample at the task's shapes; nodes
            whose shapes are unknown are left out.
        compute: runs a small model, such as a part cut out of this one; see ``edgefold.session.compute``.
        device: caches of a device by its name; see ``edgefold.measuring.devices``.
        outer_constants: whether kernels in bodies get weights that lie in the graphs around; see ``edgefold.session``.
    """

    calibration: Calibrates | None = None
    exclude: tuple[str, ...] = ()
    seed: int = 0
    probe: Callable[[ir.Model], Trace] | None = None
    gradients: Callable[[ir.Model, bool], Mapping[str, Any]] | None = None
    heal: Heals | None = None
    synthetic: Callable[[Literal["noise", "none"]], Calibrates] | None = None
    operator_times: Callable[[Sequence[Any]], Mapping[Any, float]] | None = None
    perturb: Perturb | None = None
    divergence: Perturb | None = None
    departure: Departure | None = None
    metric: Scores | None = None
    learn_gates: LearnGates | None = None
    macs: Callable[[ir.Model], Mapping[str, int]] | None = None
    device: Callable[[str], Device] | None = None
    compute: Compute | None = None
    outer_constants: bool = True

    def excludes(self, node_name: str) -> bool:
        """Whether the user asked to leave the node of that name alone."""
        return any(matches(node_name, pattern) for pattern in self.exclude)


class PreconditionError(Exception):
    """The model as a whole cannot take the pass (a node that merely does not match is a Skip)."""

    def __init__(self, node: str, why: str) -> None:
        super().__init__(why if node == "model" else f"{node}: {why}")


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class Pass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="pass", tag=_kebab):
    """Base of all passes; the class name in kebab-case is the name in recipes and on the command line."""

    effect: ClassVar[Effect]
    verified_by: ClassVar[Literal["kernels", "functions"]] = "kernels"
    """What runs the nodes of ``ai.edgefold`` while the pipeline compares the model before and after the pass. Functions
    are for passes that exchange one such node for another: integer layers make a whole step of a last bit, in which two
    kernels may differ, but the functions that mean the same compute the same."""

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    def given(self, name: str) -> bool:
        """Whether an option has another value than its default."""
        default = next(field.default for field in msgspec.structs.fields(self) if field.name == name)
        return bool(getattr(self, name) != default)

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError if the model cannot take the pass."""

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        """Edit ``model``, which is the pass's own clone; tensors are shared with the original and never written to."""
        raise NotImplementedError
