"""The house: modules import downwards only, and what must be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "visual_rft"
FLOORS = [
    ["exercises", "prompts", "parsing", "boxes", "drawing", "settings", "released"],
    ["rewards", "advantages"],
    ["gauntlet"],
    ["shaping"],
    ["data"],
    ["miniature", "sources"],
    ["studies", "checks", "recipes"],
    ["records"],
    ["models", "groups"],
    ["families", "tracking", "widgets"],
    ["pretraining", "rollouts", "grpo"],
    ["packing"],
    ["trainer"],
    ["sft", "evaluation", "figures"],
    ["benchmark", "protocols", "report"],
    ["experiments", "measuring"],
    ["reproduce", "planning"],
    ["ledger"],
    ["ablations", "probes"],
    ["doctor"],
    ["cli"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def imports(module: str) -> set[str]:
    """The modules of this package that a module imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "visual_rft"):
            inner = (node.module or "").removeprefix("visual_rft").strip(".")  # nbdev writes .name for visual_rft.name
            found |= {inner.split(".")[0]} if inner else {alias.name for alias in node.names}
    return found


def test_every_module_has_a_floor() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    assert modules == set(FLOOR)


def test_imports_are_seen_in_every_form() -> None:
    assert {"boxes", "families", "rollouts"} <= imports("trainer")  # from .boxes import
    assert {"miniature", "models", "data"} <= imports("experiments")  # from . import
    assert "protocols" in imports("measuring") and "reproduce" in imports("cli")  # from visual_rft.protocols import


@pytest.mark.parametrize("module", FLOOR)
def test_modules_import_downwards(module: str) -> None:
    above = {name for name in imports(module) if FLOOR[name] > FLOOR[module] or name == module}
    beside = {name for name in imports(module) if FLOOR[name] == FLOOR[module]}
    assert above == set() and (beside <= {"trainer", "rollouts"} or module == "sft")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("rewards", ["torch", "transformers", "scipy", "datasets"]),
        ("cli", ["torch", "transformers", "numpy"]),
        ("settings", ["torch", "numpy"]),
        ("doctor", ["torch", "transformers", "numpy", "huggingface_hub"]),
        ("advantages", ["torch"]),
        ("parsing", ["numpy", "torch"]),
        ("widgets", ["torch", "transformers", "trl"]),
    ],
)
def test_light_modules_stay_light(module: str, heavy: list[str]) -> None:
    code = f"import sys, visual_rft.{module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_text_is_ever_executed() -> None:
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, f"{path.name}: {node.func.id}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "cloudpickle", "dill"} & set(names), path.name
            if isinstance(node, ast.keyword):
                assert node.arg != "trust_remote_code", path.name
