"""A wheel carries everything: modules, pictures, licences and the tiny VLM."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tracked folders so that the checkout stays clean."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("visual_rft", "data/assets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    options = "--no-deps --no-build-isolation -q -w".split()
    command = [sys.executable, "-m", "pip", "wheel", *options, str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_pictures_and_the_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {p.relative_to(ROOT / "data").as_posix() for p in (ROOT / "data" / "assets").rglob("*") if p.is_file()}
    assert {f"visual_rft/{name}" for name in expected} <= names
    assert "visual_rft/assets/tiny-vlm/model.safetensors" in names
    assert not any("runs/" in name or name.startswith("tests") for name in names)
    assert wheel.stat().st_size < 20_000_000


def test_four_bits_are_an_extra(wheel: Path) -> None:
    content = zipfile.ZipFile(wheel)
    (path,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
    lines = content.read(path).decode().splitlines()
    asked = [line for line in lines if line.startswith("Requires-Dist: bitsandbytes")]
    assert "Provides-Extra: quantised" in lines and len(asked) == 1 and 'extra == "quantised"' in asked[0]


def test_the_tiny_vlm_is_small() -> None:
    assert (ROOT / "data" / "assets" / "tiny-vlm" / "model.safetensors").stat().st_size <= 12_000_000


def test_an_installed_package_finds_its_own_pictures(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "from visual_rft import miniature; print(miniature.asset_path('tiny-vlm'));"
        "miniature.sprite_pixels(miniature.all_sprites()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert Path(done.stdout.strip()) == tmp_path / "visual_rft" / "assets" / "tiny-vlm"
