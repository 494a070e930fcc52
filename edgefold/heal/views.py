# SPDX-License-Identifier: Apache-2.0
"""What the original says about an image seen in several ways at once: a better and smoother answer than any one has.

A view leaves what the image shows as it is, so the classes should not depend on it; where the original's do, a student
that is taught their mean learns from data without labels not to (Radosavovic et al. 2018, arXiv 1712.04440).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgefold.errors import UsageError
from edgefold.heal.image_changes import flipped, is_images, shifted
from edgefold.heal.teacher import Teacher

Array = np.ndarray[Any, Any]
Mean = Callable[[Sequence[Array]], Array]
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
LEAST_PROBABILITY = 1e-12


class TeacherOfViews(Teacher):
    """Answers about whole images as the mean over their views; hidden tensors stay those of the image as it is given.

    Args:
        one: tells about one view.
        means: output -> how several answers become one.
        views: of "flip" and "shift"; the image itself is always among them.
        feeds: a few samples, on which is found out whether that has a meaning.

    Raises:
        UsageError: no input holds images, or an output has an answer for each place of them.
    """

    def __init__(
        self, one: Teacher, means: Mapping[str, Mean], views: Sequence[str], feeds: Mapping[str, Array]
    ) -> None:
        super().__init__(one.model, ())
        self.names = one.names
        self._one, self._means, self._views = one, means, views
        asked = f"--teacher-views {','.join(views)}"
        if not any(map(is_images, feeds.values())):
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
            raise UsageError(
                f"{asked}: takes images, [N, C, H, W] or [N, H, W, C] in float; the inputs are {shapes}; leave it out"
            )
        for name, value in one(feeds, tuple(means)).items():
            if value.ndim != 2:
                raise UsageError(
                    f"{asked}: takes outputs of one row an image, [N, values]; '{name}' is {list(value.shape)}, whose "
                    "places would be those of each view; leave it out"
                )

    def __call__(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """The named tensors for some inputs [rows, ...]."""
        found = self._one(feeds, names)
        outputs = [name for name in self._means if name in found]
        answers = {name: [found[name]] for name in outputs}
        for view in seen(feeds, self._views) if outputs else ():
            for name, answer in self._one(view, outputs).items():
                answers[name].append(answer)
        return {**found, **{name: self._means[name](of).astype(found[name].dtype) for name, of in answers.items()}}


def seen(feeds: Mapping[str, Array], views: Sequence[str]) -> Iterator[dict[str, Array]]:
    """The other views of the images among some inputs: mirrored, shifted towards each corner, and both."""
    for flip, corner in itertools.product((False, True), (None, *CORNERS)):
        if (flip and "flip" not in views) or (corner and "shift" not in views) or not (flip or corner):
            continue
        view = dict(feeds)
        for name, value in feeds.items():
            if is_images(value):
                moved = value if corner is None else shifted(value, corner)
                view[name] = np.ascontiguousarray(flipped(moved) if flip else moved)
        yield view


def mean_classes(answers: Sequence[Array], temperature: float, probabilities: bool) -> Array:
    """Logits, or probabilities, that softened are the mean of the softened classes of several.

    No other target has so small a KL divergence to all of them together: a student taught it follows the gradient of
    one taught all views at once. The mean of logits would be sharper, and that of classes as they are would be softened
    after the fact.

    Args:
        answers: of each view, [rows, classes].
        temperature: that softens.
        probabilities: whether these are probabilities, and so shall be the result.
    """
    logits = [np.log(np.maximum(one, LEAST_PROBABILITY)) if probabilities else one for one in answers]
    softened = [_log_softmax(one.astype(np.float64) / temperature) for one in logits]
    mean = np.asarray(temperature * (np.logaddexp.reduce(softened) - np.log(len(softened))))
    return np.exp(_log_softmax(mean)) if probabilities else mean


def mean_values(answers: Sequence[Array]) -> Array:
    """The mean of several answers that are no classes."""
    return np.asarray(np.mean(answers, axis=0, dtype=np.float64))


def _log_softmax(logits: Array) -> Array:
    less: Array = logits - logits.max(axis=-1, keepdims=True)
    result: Array = less - np.log(np.exp(less).sum(axis=-1, keepdims=True))
    return result
