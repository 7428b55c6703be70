"""Notebooks keep the limits that make them readable: short cells, prose between them, assertions, pictures."""

import ast
import json
import re
import statistics
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "nbs").glob("[!_]*.ipynb"))
ASSERTS = re.compile(r"\b(assert|test_\w+\(|raises\()")
FIGURES = r"\.(show|plot|imshow|bar|scatter)\(|subplots\(|Image\.|draw_boxes|contact_sheet|\.image\b"
SHOWS = re.compile(FIGURES + r"|\bgrade\(|HTML\(|table\(|Markdown\(|display\(")


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def code_cells(path: Path) -> list[str]:
    return [source(cell) for cell in cells(path) if cell["cell_type"] == "code" and source(cell).strip()]


def lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


def faults(path: Path) -> list[str]:
    """Every limit that a notebook breaks, in words."""
    code, found = code_cells(path), []
    prose = " ".join(source(cell) for cell in cells(path) if cell["cell_type"] == "markdown")
    sizes = [lines(text) for text in code]
    if max(sizes) > 25:
        found.append(f"a code cell of {max(sizes)} lines (at most 25)")
    if statistics.median(sizes) > 8:
        found.append(f"median code cell of {statistics.median(sizes)} lines (at most 8)")
    if len(prose.split()) < 40 * len(code):
        found.append(f"{len(prose.split()) // len(code)} words of prose a code cell (at least 40)")
    if sum(bool(ASSERTS.search(text)) for text in code) < 0.3 * len(code):
        found.append("fewer than 30% of the code cells assert something")
    if sum(bool(SHOWS.search(text)) for text in code) < 0.1 * len(code):
        found.append("fewer than 10% of the code cells show a figure or a table")
    kinds = "".join("c" if cell["cell_type"] == "code" else "m" for cell in cells(path))
    if "cccc" in kinds:
        found.append("more than 3 code cells in a row")
    if path.stat().st_size > 500_000:
        found.append(f"{path.stat().st_size // 1000} kB (at most 500)")
    graded = [text for text in code if re.search(r"\bgrade\(", text)]
    if not any(re.search(r"\d: \.\.\.", text) for text in graded) or not any(".right ==" in text for text in graded):
        found.append("no graded exercise, or no cell that checks its solution")
    for word in ("## Summary", "## Exercises", "**Time**", "**You need**"):
        if word not in prose:
            found.append(f"no {word!r}")
    return found + [f"{name} is exported but never used" for name in unused(code)]


def unused(code: list[str]) -> list[str]:
    """Exported public names that no other cell of the notebook uses."""
    exported = [text for text in code if "#| export" in text]
    shown = "\n".join(text for text in code if "#| export" not in text)
    names = [
        node.name
        for text in exported
        for node in ast.parse(text).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    return [name for name in names if not re.search(rf"\b{name}\b", shown)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_limits(path: Path) -> None:
    assert faults(path) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "source": ["#| export\n", "def never_used():\n", *["    a = 1\n"] * 30]}
    path = tmp_path / "bad.ipynb"
    path.write_text(json.dumps({"cells": [cell] * 4}), encoding="utf-8")
    text = " ".join(faults(path))
    words = ("32 lines", "words of prose", "in a row", "never_used", "Summary", "assert", "graded")
    assert all(word in text for word in words)
