# SPDX-License-Identifier: Apache-2.0
"""How a name from an untrusted file is shown in a one-line message."""

from __future__ import annotations

_LONGEST = 100


def quoted(text: str) -> str:
    """The text in quotes, on one line: control characters escaped, the middle of a very long one left out."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    return repr(text)
