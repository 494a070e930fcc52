# SPDX-License-Identifier: Apache-2.0
"""Distances between what the student gives and what it should give; each is a mean over the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEAST_PROBABILITY = 1e-12  # below it float32 has no logarithm worth following
LEAST_POWER = 1e-12


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's classes to the student's, softened (Hinton et al. 2015, section 2).

    Args:
        student: logits [..., classes].
        teacher: logits of the same shape.
        temperature: divides both; the result is multiplied by its square, which keeps the gradient's scale.

    Returns:
        The mean over everything but the last axis, nats.
    """
    ours = functional.log_softmax(student / temperature, dim=-1)
    wanted = functional.log_softmax(teacher / temperature, dim=-1)
    divergence = (wanted.exp() * (wanted - ours)).sum(dim=-1)
    return divergence.mean() * temperature**2


def logits_of(probabilities: Tensor) -> Tensor:
    """Logits whose softmax the given probabilities are."""
    return probabilities.clamp_min(LEAST_PROBABILITY).log()


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 minus the cosine of each sample's flattened tensors, averaged."""
    return (1 - functional.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1)).mean()


def similarity_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the cosines between all samples of a batch, over their variance with the teacher.

    Retrieval and ranking read nothing else of an embedding (Tung and Mori 2019, arXiv 1907.09682, section 3).
    """
    ours, wanted = (functional.normalize(tensor.flatten(1), dim=1) for tensor in (student, teacher))
    others = ~torch.eye(len(ours), dtype=torch.bool, device=ours.device)
    cosines, target = (ours @ ours.t())[others], (wanted @ wanted.t())[others]
    if len(target) < 2:
        return ours.new_zeros(())
    return functional.mse_loss(cosines, target) / target.var().clamp_min(LEAST_POWER)


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error over the squared magnitude of the teacher's tensor; 0 is equal, 1 as bad as giving zeros."""
    return functional.mse_loss(student, teacher) / teacher.square().mean().clamp_min(LEAST_POWER)


def token_cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 minus the cosine along the last axis, averaged over all else; where the teacher is zero, 0."""
    cosines = functional.cosine_similarity(student, teacher, dim=-1)
    return torch.where(teacher.abs().amax(dim=-1) > 0, 1 - cosines, 0).mean()


def batch_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of softmaxes along the batch, summed and divided by its size, as the code of FuseGPT has it."""
    ours, wanted = functional.log_softmax(student, dim=0), functional.softmax(teacher, dim=0)
    return functional.kl_div(ours, wanted, reduction="batchmean")


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of labels [...] under logits [..., classes], nats; negative labels are left out."""
    classes = student.shape[-1]
    kept = torch.where(labels < 0, -1, labels).long().reshape(-1)
    return functional.cross_entropy(student.reshape(-1, classes), kept, ignore_index=-1)
