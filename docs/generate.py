# SPDX-License-Identifier: Apache-2.0
"""Writes passes.md, operators.md and kernels.md from the declarations in the code.

Run ``python docs/generate.py`` after a change of a docstring, an option or a kernel table; a test fails when a page is
stale.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec

from edgefold.ops import operator_documentation
from edgefold.passes import PASSES

DOCS = Path(__file__).resolve().parent
FAMILIES = DOCS.parent / "runtime" / "kernels"
MARK = "<!-- Written by docs/generate.py; edit the source instead. -->"
ROW = re.compile(r"^EF_(?:REFERENCE|X86|ARM)_KERNEL\((?:k(\w+), )?(\w+)\)", re.MULTILINE)


def pages() -> dict[str, str]:
    """Returns the text of every generated page by file name."""
    return {"passes.md": passes_page(), "operators.md": operators_page(), "kernels.md": kernels_page()}


def passes_page() -> str:
    """Every pass in the order of ``PASSES``: its docstring, and its options with their defaults."""
    parts = [
        MARK,
        "# Passes",
        "A recipe lists passes by these names. Every option may be set by `--set PASS.OPTION=VALUE`.",
    ]
    for kind in PASSES:
        parts += [
            f"## {kind.__struct_config__.tag}",
            f"Effect: {kind.effect.value}.",
            _prose(inspect.getdoc(kind) or ""),
        ]
        rows = [f"| `{field.name.replace('_', '-')}` | `{_default(field)}` |" for field in msgspec.structs.fields(kind)]
        if rows:
            parts.append("\n".join(["| option | default |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def operators_page() -> str:
    """Every operator of ``ai.edgefold``: the docstring of the function that defines it."""
    parts = [
        MARK,
        "# Operators of the domain `ai.edgefold`",
        "Each is defined by a function of standard ONNX operators (`edgefold/ops/`), which every compressed file "
        "carries. Stock ONNX Runtime runs that function; the EdgeFold library runs a kernel in its place.",
    ]
    parts += [f"#{page.strip()}" for page in operator_documentation().values()]
    return "\n\n".join(parts) + "\n"


def kernels_page() -> str:
    """Every kernel family: the contract at the head of its header, and its variants, fastest first."""
    parts = [
        MARK,
        "# Kernels",
        "A variant runs where the processor has its instruction set; `EDGEFOLD_ISA` forbids all above the one it "
        "names. Of the variants that may run, the first in the table does. "
        "`edgefold doctor` prints the choice on this machine.",
    ]
    for folder in sorted(path for path in FAMILIES.iterdir() if (path / "kernels.inc").is_file()):
        contract = _leading_comment(folder / f"{folder.name}.h")
        variants = ROW.findall((folder / "kernels.inc").read_text())
        rows = [f"| `{symbol}` | {isa.lower() or 'reference'} |" for isa, symbol in variants]
        parts += [f"## {folder.name}", f"```text\n{contract}\n```"]
        parts.append("\n".join(["| variant | instruction set |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _prose(docstring: str) -> str:
    """Turns the sections of a Google docstring into Markdown lists."""
    lines = []
    for line in docstring.splitlines():
        section = re.fullmatch(r"(\w[\w ]*):", line)
        item = re.fullmatch(r"(?: {2}| {4})(\S.*?): (.*)", line)
        if section:
            lines += [f"**{section[1]}**", ""]
        elif item:
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("  ") else line)
    return "\n".join(lines).strip()


def _leading_comment(header: Path) -> str:
    """Returns the comment that opens a header, without its licence line."""
    lines = []
    for line in header.read_text().splitlines()[1:]:
        if not line.startswith("//"):
            break
        lines.append(line.removeprefix("//").removeprefix(" "))
    return "\n".join(lines)


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text)
