"""The notebooks for a free GPU: what never runs here is at least called as the installed libraries want it."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from visual_rft.recipes import read_recipe, recipe_names, settings_of

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("3*.ipynb"))
PACKAGES = ("visual_rft", "transformers", "trl", "peft", "datasets", "huggingface_hub")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(path: Path) -> list[str]:
    """The code cells of a notebook, and the Python in its text: solutions of exercises are code too."""
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in read(path)["cells"]]
    prose = "\n".join(text for text, kind in texts if kind == "markdown")
    return [text for text, kind in texts if kind == "code"] + re.findall(r"```python\n(.*?)```", prose, re.S)


def imported(trees: list[ast.Module]) -> dict[str, object]:
    """What the imports of the cells bind, of the packages that are checked; raises where something is not there."""
    found = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    module = importlib.import_module(alias.name)
                    whole = module if alias.asname else importlib.import_module(alias.name.split(".")[0])
                    found[alias.asname or alias.name.split(".")[0]] = whole
    return found


def called(function: ast.expr, names: dict[str, object]) -> object | None:
    """The object behind `name` or `name.part.part`; None for what the imports do not bind."""
    if isinstance(function, ast.Name):
        return names.get(function.id)
    inner = called(function.value, names) if isinstance(function, ast.Attribute) else None
    return None if inner is None else getattr(inner, function.attr)


def fault_of(call: ast.Call, function: object) -> str:
    """What is wrong with the arguments of a call; empty when they fit."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # built in, without a signature
        return ""
    values = [value for value in call.args if not isinstance(value, ast.Starred)]
    options = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    starred = len(values) < len(call.args) or any(keyword.arg is None for keyword in call.keywords)
    try:
        (signature.bind_partial if starred else signature.bind)(*values, **options)
    except TypeError as error:
        return f"{ast.unparse(call.func)}: {error}"
    return ""


def call_faults(cells: list[str]) -> tuple[int, list[str]]:
    """How many calls were checked, and what is wrong with them, branches that never run included."""
    trees = [ast.parse(cell) for cell in cells]
    names, checked, faults = imported(trees), 0, []
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        try:
            function = called(call.func, names)
        except AttributeError as error:
            faults.append(f"{ast.unparse(call.func)}: {error}")
            continue
        if function is not None:
            checked += 1
            faults += filter(None, [fault_of(call, function)])
    return checked, faults


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def install_cells(path: Path) -> list[str]:
    return [cell for cell in code_of(path) if "pip" in cell]


def test_there_are_three() -> None:
    assert [path.stem[:3] for path in NOTEBOOKS] == ["30_", "31_", "32_"]


@each
def test_every_call_fits_the_installed_libraries(path: Path) -> None:
    checked, faults = call_faults(code_of(path))
    assert faults == [] and checked > 30


IMPORTS = "from visual_rft.experiments import fine_tune\nfrom visual_rft import models\nimport huggingface_hub as hub\n"


@pytest.mark.parametrize(("cell", "fault"), [
    ("if ON_GPU:\n    fine_tune('grpo', '', rows, settings, 'run', comand='x', recipe='y')", ""),  # **details takes all
    ("if ON_GPU:\n    models.load('x', dtyp=None)", "unexpected keyword argument 'dtyp'"),
    ("def later():\n    return models.load('x', None, False, 0, 1)", "too many positional"),
    ("fine_tune('grpo', '', rows)", "missing a required argument"),
    ("models.lod('x')", "no attribute 'lod'"),
    ("hub.login(tokn='x')", "unexpected keyword argument 'tokn'"),
    ("fine_tune(*values)", ""),
    ("models.load('x', **options, max_pixel=3)", "unexpected keyword argument 'max_pixel'"),
    ("unknown(1, 2, three=4)\nrows.select([1], no=2)", ""),
])  # fmt: skip
def test_the_check_of_calls_can_fail(cell: str, fault: str) -> None:
    found = call_faults([IMPORTS, cell])[1]
    assert (found == []) if not fault else (len(found) == 1 and fault in found[0])


def test_a_name_that_is_not_there_cannot_be_imported() -> None:
    with pytest.raises(ImportError):
        call_faults(["from visual_rft.experiments import fine_tuned"])


@each
def test_the_wish_for_a_gpu_is_kept(path: Path) -> None:
    metadata = read(path)["metadata"]
    assert metadata["accelerator"] == "GPU" and metadata["colab"] == {"gpuType": "T4", "provenance": []}
    assert {"accelerator", "colab"} <= set(project()["tool"]["nbdev"]["allowed_metadata_keys"])


def run_install_cell(path: Path, monkeypatch: pytest.MonkeyPatch, present: set[str]) -> list[list[str]]:
    """The commands that the install cell starts where just these packages are found."""
    commands: list[list[str]] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in present else None)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append(command))
    exec(install_cells(path)[0], {})
    return commands


@each
def test_only_colab_installs_and_only_what_is_pinned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = install_cells(path)
    assert not re.search(r"-U\b|--upgrade|%pip|!pip", cell)
    facts = ConfigParser(delimiters=["="], interpolation=None)
    facts.read(ROOT / "settings.ini", encoding="utf-8")
    address, version = project()["project"]["urls"]["Repository"], facts["DEFAULT"]["version"]
    pinned = f"visual_rft @ git+{address}@v{version}"
    assert run_install_cell(path, monkeypatch, set()) == []
    assert run_install_cell(path, monkeypatch, {"visual_rft"}) == []
    assert run_install_cell(path, monkeypatch, {"google"}) == []  # other packages share that name
    assert run_install_cell(path, monkeypatch, {"google", "google.colab", "visual_rft"}) == []
    on_colab = run_install_cell(path, monkeypatch, {"google", "google.colab"})
    assert on_colab == [[sys.executable, "-m", "pip", "install", pinned]]


@each
def test_an_uploaded_wheel_goes_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def glob(folder: Path, pattern: str) -> list[Path]:
        asked.append((str(folder), pattern))
        return [Path("/content/visual_rft-0.1.0-py3-none-any.whl")]

    monkeypatch.setattr(Path, "glob", glob)
    (command,) = run_install_cell(path, monkeypatch, {"google", "google.colab"})
    assert command[-1].endswith(".whl") and asked == [("/content", "visual_rft-0.1.0-*.whl")]


@each
def test_nothing_is_installed_by_another_cell(path: Path) -> None:
    assert len(install_cells(path)) == 1
    assert not any(line.lstrip().startswith(("!", "%")) for cell in code_of(path) for line in cell.splitlines())


@each
def test_every_recipe_that_is_named_exists(path: Path) -> None:
    trees = [ast.parse(cell) for cell in code_of(path)]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call.args[0].value for call in calls if getattr(call.func, "id", "") == "read_recipe"]
    text = "".join("".join(cell["source"]) for cell in read(path)["cells"])
    named += re.findall(r"\btable\d-\db-[\w-]+?-(?:grpo|sft)\b", text)
    assert named and set(named) <= set(recipe_names())
    assert all(settings_of(read_recipe(name), "t4").lora_rank for name in named)


@each
def test_a_machine_with_a_gpu_rehearses_in_the_test_suite(path: Path) -> None:
    (cell,) = (cell for cell in code_of(path) if re.search(r"^ON_GPU = ", cell, re.M))
    (line,) = (line for line in cell.splitlines() if line.startswith("ON_GPU = "))
    torch = type("torch", (), {"cuda": type("cuda", (), {"is_available": staticmethod(lambda: True)})})
    for environ, expected in (({"IN_TEST": "1"}, False), ({}, True)):
        place = {"torch": torch, "os": type("os", (), {"environ": environ})}
        exec(line, place)
        assert place["ON_GPU"] is expected


@each
def test_the_text_claims_no_gpu_run(path: Path) -> None:
    cells = read(path)["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "on a GPU: not measured" in text and "No run on a GPU has been made" in text
    shown = json.dumps([cell.get("outputs") for cell in cells])
    assert "a rehearsal on a CPU" in shown and "the real thing" not in shown
