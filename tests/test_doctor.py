"""The doctor: machines that are described get the right words, and looking at a broken one never raises."""

import builtins
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from visual_rft import cli, doctor
from visual_rft.doctor import EXTRAS, Machine, Package, answering, download, faults_of, report, training, verdicts

NONE = tuple(Package(name, "") for name in EXTRAS)
ALL = tuple(Package(name, "9.9") for name in EXTRAS)
LAPTOP = Machine(
    python="3.12.1", torch_error="", packages=(Package("torch", "2.14.1+cpu", ">=2.6"),), extras=NONE, device="cpu",
    device_name="x86_64", devices=0, capability=(0, 0), memory=16.0, cores=8, free=80.0, writable=True, hub="reachable",
    tiny="",
)
T4 = replace(LAPTOP, device="cuda", device_name="Tesla T4", devices=1, capability=(7, 5), memory=15.6)
L4 = replace(T4, device_name="NVIDIA L4", capability=(8, 9), memory=23.6)
A100 = replace(T4, device_name="NVIDIA A100", capability=(8, 0), memory=85.0, extras=ALL)
EIGHT = replace(A100, devices=8)
APPLE = replace(LAPTOP, device="mps", device_name="arm64", devices=1, memory=64.0)


def answers(machine: Machine) -> dict[str, str]:
    return {each.what: each.answer for each in verdicts(machine)}


@pytest.mark.parametrize("machine", [LAPTOP, T4, L4, A100, EIGHT, APPLE], ids=lambda machine: machine.device_name)
def test_the_miniature_runs_everywhere(machine: Machine) -> None:
    assert faults_of(machine) == [] and answers(machine)["all notebooks of the miniature"] == "yes"
    text = report(machine)
    assert f"{machine.memory:.1f} GB" in text and machine.device_name in text and "What to mend" not in text
    assert all(f"  {each.answer:<8}{each.what}: {each.why}" in text for each in verdicts(machine))


@pytest.mark.parametrize(("machine", "size"), [
    (LAPTOP, ""), (APPLE, ""), (T4, "t4"), (L4, "l4"), (A100, "a100"), (EIGHT, "8xa100"),
    (replace(T4, memory=8.0), ""), (replace(T4, capability=(7, 0), memory=34.0), "t4"),
    (replace(L4, memory=16.0), "t4"),
    (replace(A100, memory=42.0), "l4"), (replace(EIGHT, memory=42.0), "l4"),
])
def test_the_size_of_a_recipe(machine: Machine, size: str) -> None:
    text = report(machine).splitlines()[-1]
    assert text.endswith(f"--size {size} --out runs/first" if size else "visual-rft compare --quick")
    if size:
        cli._parsed(text.split("visual-rft ")[1].split())  # a command that can be parsed


@pytest.mark.parametrize(("machine", "model", "way", "answer"), [
    (T4, "2B", "all weights", "no"), (T4, "2B", "adapters", "yes"), (T4, "7B", "adapters", "no"),
    (L4, "2B", "all weights", "no"), (L4, "7B", "adapters", "perhaps"), (L4, "2B", "adapters", "yes"),
    (A100, "2B", "all weights", "yes"), (A100, "7B", "all weights", "no"), (A100, "7B", "adapters", "yes"),
    (EIGHT, "7B", "all weights", "yes"), (replace(T4, extras=ALL), "7B", "adapters over 4 bits", "yes"),
])
def test_what_can_be_trained(machine: Machine, model: str, way: str, answer: str) -> None:
    found = training(machine, model, way)
    assert found.answer == answer and "calculated, not measured" in found.why
    assert answers(machine)[f"train Qwen2-VL-{model}, {way}"] == answer


def test_why_not() -> None:
    assert training(LAPTOP, "2B", "adapters").why == "no GPU"
    assert training(APPLE, "2B", "adapters").why == "not tried on an Apple GPU"
    assert training(T4, "7B", "adapters over 4 bits").why == "bitsandbytes is not installed"
    assert "44.2 GB of weights in 15.6 GB: too much" in training(T4, "2B", "all weights").why


def test_adapters_are_trained_on_one_card() -> None:
    two = replace(T4, devices=2)
    assert training(two, "7B", "adapters") == training(T4, "7B", "adapters")
    assert "in 31.2 GB" in training(two, "2B", "all weights").why


@pytest.mark.parametrize(("capability", "bfloat16", "float16"), [
    ((6, 1), "emulated", "slow"), ((7, 0), "emulated", "yes"), ((7, 5), "emulated", "yes"), ((8, 0), "yes", "yes"),
    ((8, 9), "yes", "yes"), ((10, 0), "yes", "yes")])
def test_number_formats(capability: tuple, bfloat16: str, float16: str) -> None:
    found = doctor.number_formats(replace(T4, capability=capability))
    assert found["bfloat16"].startswith(bfloat16) and found["float16"].startswith(float16)
    assert all("float32" in words for words in doctor.number_formats(LAPTOP).values())


def test_attention() -> None:
    assert doctor.attention(A100) == {
        "SDPA": "yes", "FlashAttention 2": "would work, and is not used here", "FlexAttention": "yes"}
    assert "8.0" in doctor.attention(replace(T4, extras=ALL))["FlashAttention 2"]
    assert "not installed" in doctor.attention(L4)["FlashAttention 2"]
    assert "NVIDIA" in doctor.attention(replace(LAPTOP, extras=ALL))["FlashAttention 2"]


@pytest.mark.parametrize(("change", "words"), [
    (dict(hub="offline"), "offline"), (dict(hub="not reachable"), "not reachable"), (dict(writable=False), "HF_HOME"),
    (dict(free=4.0), "4.0 GB are free")])
def test_no_download(change: dict, words: str) -> None:
    found = download(replace(LAPTOP, **change), "2B")
    assert found.answer == "no" and words in found.why


def test_downloads_and_answers() -> None:
    assert (download(LAPTOP, "2B").answer, download(replace(LAPTOP, free=0.0), "2B").answer) == ("yes", "perhaps")
    assert download(replace(LAPTOP, free=10.0), "7B").answer == "no"
    assert (answering(LAPTOP, "2B").answer, answering(LAPTOP, "7B").answer) == ("yes", "no")
    assert "slow" in answering(APPLE, "2B").why and "slow" not in answering(T4, "2B").why
    assert answering(replace(LAPTOP, memory=0.0), "2B").answer == "perhaps"


FAULTS = {
    "Python 3.10.9 is too old": dict(python="3.10.9"),
    "torch cannot be imported: OSError": dict(torch_error="OSError"),
    "torch>=2.6 is needed, 2.5.1 is installed": dict(packages=(Package("torch", "2.5.1", ">=2.6"),)),
    "trl>=1 is needed, it is not installed": dict(packages=(Package("trl", "", ">=1"),)),
    "tiny model does not open: ValueError": dict(tiny="ValueError"),
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_is_broken_is_named_and_nothing_else_promised(words: str) -> None:
    sick = replace(A100, **FAULTS[words])
    assert len(faults_of(sick)) == 1 and words in faults_of(sick)[0]
    assert [each.answer for each in verdicts(sick)] == ["no"] and words in verdicts(sick)[0].why
    assert words in report(sick).split("What to mend")[1] and "A first command" not in report(sick)
    assert doctor.broken(sick) == ("too old" in words or "imported" in words)


def test_looking_finds_this_machine(monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    here = doctor.look()
    assert here.hub == "offline" and here.python == sys.version.split()[0] and faults_of(here) == []
    assert here.free > 0 and here.memory > 0 and [each.name for each in here.extras] == list(EXTRAS)
    assert str(Path.home()) not in report(here) or str(Path.home()) == "/"


def test_looking_never_raises(monkeypatch) -> None:
    """Every import and every question of the operating system fails."""
    plain = builtins.__import__

    def refused(name, *rest):
        if name.split(".")[0] in ("torch", "huggingface_hub", "packaging", "transformers", "visual_rft"):
            raise OSError(f"/home/somebody/{name}.so is broken")
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refused)
    for place, name in ((doctor.shutil, "disk_usage"), (doctor.os, "access"), (doctor.os, "sysconf")):
        monkeypatch.setattr(place, name, lambda *values: 1 / 0)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: None)
    here = doctor.look()
    monkeypatch.undo()
    assert (here.torch_error, here.tiny, here.hub, here.cores) == ("OSError", "OSError", "not reachable", 1)
    assert (here.free, here.memory, here.writable, here.packages) == (0.0, 0.0, False, ())
    assert doctor.broken(here) and "somebody" not in report(here) and "unknown" in report(here)
    assert all(getattr(here, item.name) is not None for item in fields(Machine))


def test_the_hub_is_asked_for_three_seconds_and_not_when_offline(monkeypatch) -> None:
    asked = []

    class Session:
        def head(self, *values, **options):
            asked.append((values, options))
            return object()

    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert doctor._hub() == "reachable" and asked == [(("https://hub.example",), dict(timeout=3))]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor._hub() == "offline" and len(asked) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Session, "head", lambda *values, **options: 1 / 0)
    assert doctor._hub() == "not reachable"


@pytest.mark.parametrize(("machine", "code"), [
    (T4, 0), (LAPTOP, 0), (replace(LAPTOP, tiny="OSError"), 0), (replace(LAPTOP, torch_error="OSError"), 1),
    (replace(LAPTOP, python="3.9.1"), 1)])
def test_the_exit_code(machine: Machine, code: int, monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "look", lambda: machine)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().out == report(machine) + "\n"


def test_the_command_works_where_the_libraries_are_broken(tmp_path: Path) -> None:
    for name in ("torch", "transformers", "datasets"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('broken')")
    code = (f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from visual_rft.cli import main;"
            "sys.exit(main(['doctor']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1 and "torch cannot be imported: RuntimeError" in done.stdout and done.stderr == ""
