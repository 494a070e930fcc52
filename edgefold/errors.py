# SPDX-License-Identifier: Apache-2.0
"""What EdgeFold tells a user who cannot be served: one line each, with the exit code of the command."""

from __future__ import annotations

from typing import ClassVar


class EdgefoldError(Exception):
    """Base of all errors meant for a user.

    ``str(error)`` is one line that names the file, node or option, what was expected, and what to do.
    """

    exit_code: ClassVar[int] = 2


class UsageError(EdgefoldError):
    """A wrong option, recipe or task file."""


class ModelError(EdgefoldError):
    """A model file that cannot be read, is unsafe, or that the runtime refuses."""


class ContractError(EdgefoldError):
    """A goal the user stated (metric drop, size) was missed; the best artefact was written all the same."""

    exit_code: ClassVar[int] = 1


class VerificationError(EdgefoldError):
    """A pass or an output did not do what it claims; the last good model and a reproducer were kept."""

    exit_code: ClassVar[int] = 1
