# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a program can hold."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import edgefold

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {".py", ".cc", ".h", ".inc", ".sh", ".cmake", ".c"}
PUBLIC = [
    "bench",
    "compress",
    "diff",
    "evaluate",
    "heal",
    "inspect",
    "verify",
    "load_model",
    "make_session",
    "ops_library",
    "ContractError",
    "EdgefoldError",
    "ModelError",
    "UsageError",
    "VerificationError",
]


def tracked() -> list[Path]:
    """The files that git knows, without symlinks; without git (an sdist) the files of the house's folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        names = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        folders = ("edgefold", "passes", "targets", "runtime", "models", "tests", "docs")
        names = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return [path for path in names if path.is_file() and not path.is_symlink()]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix in SOURCES or path.name == "run"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_source_names_its_licence() -> None:
    lacking = [
        name_of(path)
        for path in [*sources(), *(p for p in tracked() if p.name == "CMakeLists.txt")]
        if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(path.read_text().splitlines()[:2])
    ]
    assert not lacking


def test_files_are_short() -> None:
    long = {name_of(path): lines for path in sources() if (lines := len(path.read_text().splitlines())) > 330}
    assert not long


def test_functions_are_short() -> None:
    long = {}
    for path in (path for path in sources() if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                body_start = node.lineno
                if ast.get_docstring(node):
                    body_start = node.body[0].end_lineno or node.lineno
                if node.end_lineno - body_start > 50:
                    long[f"{name_of(path)}:{node.name}"] = node.end_lineno - body_start
    assert not long


def test_no_file_names_a_folder_of_one_machine() -> None:
    # Written in parts so that this file does not match itself.
    pattern = re.compile(
        rb"(?<![\w.$}])/(" + b"|".join((b"home/", b"root/", b"work/", b"Users/", b"tmp/" + rb"[\w]")) + rb")"
    )
    found = {name_of(path) for path in tracked() if pattern.search(path.read_bytes())}
    assert not found


def test_no_unfinished_marks() -> None:
    pattern = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
    found = {name_of(path) for path in sources() if pattern.search(path.read_text())}
    assert not found


@pytest.mark.parametrize("folder", ["passes", "targets"])
def test_top_level_folders_are_reached_only_through_the_package(folder: str) -> None:
    assert (ROOT / "edgefold" / folder).readlink() == Path("..") / folder
    assert importlib.import_module(f"edgefold.{folder}").__name__ == f"edgefold.{folder}"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "docs")
    assert alone.returncode != 0
    assert f"import edgefold.{folder}" in alone.stderr


@pytest.mark.skipif(
    Path(edgefold.__file__).is_relative_to(ROOT), reason="editable install: the repository's root is on the path"
)
def test_installed_package_adds_no_top_level_name() -> None:
    code = (
        "import importlib.util, json\n"
        "names = ('passes', 'targets', 'runtime', 'models')\n"
        "print(json.dumps([n for n in names if importlib.util.find_spec(n) is not None]))"
    )
    # -P keeps the current folder off the path: only what is installed counts.
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "docs"
    )
    assert json.loads(found.stdout) == []


def test_public_names() -> None:
    assert edgefold.__all__ == PUBLIC
    undocumented = [name for name in PUBLIC if not getattr(edgefold, name).__doc__]
    assert not undocumented


def test_pages_of_docs_are_fresh() -> None:
    specification = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    stale = [name for name, text in generate.pages().items() if (ROOT / "docs" / name).read_text() != text]
    assert not stale, "run `python docs/generate.py`"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from edgefold.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'torch', 'onnx_ir', 'onnxscript', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compress" in run.stdout
    assert run.stderr.strip() == "[]"


def test_help_answers_at_once() -> None:
    # Processor time, which equals elapsed time on a quiet machine and does not grow on a busy one.
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "edgefold", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.15  # the product's promise: best of five


def test_every_decision_fits_a_page() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    assert all(len(page.read_text().splitlines()) <= 40 for page in pages)
