# SPDX-License-Identifier: Apache-2.0
"""The learning rate over a training, as a function of the share of it that is done."""

from __future__ import annotations

import math

WARM_UP = 0.05


def learning_rate_factor(done: float) -> float:
    """Linear warm-up, then half a cosine down to 0 (Loshchilov and Hutter 2017, without restarts).

    Args:
        done: share of the training that will be done after the step, above 0; by steps, or by time.

    Returns:
        What the highest learning rate is multiplied by, from 0 to 1.
    """
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))
