"""Two processes train as one does: the gradients of a group spread over machines are those of one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visual_rft import miniature
from visual_rft.evaluation import read_completions
from visual_rft.records import read_json, read_log

SCRIPT = Path(__file__).with_name("two_processes.py")
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
VISUAL_RFT = str(Path(sys.executable).with_name("visual-rft"))


def trained(start: str, out: Path, mode: str, processes: int) -> dict[str, torch.Tensor]:
    """The weights after one step of gradient descent."""
    launch = [*LAUNCH, "--master-port", "29517"] if processes > 1 else [sys.executable]
    command = [*launch, str(SCRIPT), start, str(out), mode]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out)


@pytest.fixture(scope="module")
def one(tiny_folder, tmp_path_factory) -> dict[str, torch.Tensor]:
    return trained(tiny_folder, tmp_path_factory.mktemp("one") / "weights.safetensors", "plain", 1)


@pytest.mark.parametrize("mode", ["plain", "fsdp"])
def test_two_processes_give_the_gradients_of_one(tiny_folder, one, tmp_path, mode) -> None:
    start = load_file(Path(tiny_folder) / "model.safetensors")
    two = trained(tiny_folder, tmp_path / "weights.safetensors", mode, 2)
    assert two.keys() == one.keys()
    for name in one:
        if name in start:  # tied weights are stored once
            gradient = start[name] - one[name]
            gap = (start[name] - two[name] - gradient).norm()
            assert gap <= 1e-5 * gradient.norm() + 1e-7, name
    assert sum((start[name] - one[name]).norm() for name in one if name in start) > 0.1


METHODS = {"sft": "--batch 1", "grpo": "--prompts 1 --group 2 --max-completion-length 8"}


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_write_one_record(tiny_folder, tmp_path, method: str) -> None:
    """The command line under a launcher: one log, one model, and the whole step of both processes."""
    launch = [*LAUNCH, "--master-port", "29518", "--no-python", "--", VISUAL_RFT]
    options = "--steps 2 --accumulate 2 --save-every 1 --shots 1 --threads 1 --lora-rank 2 --warmup 0"
    options += f" {METHODS[method]} --model {tiny_folder} --out {tmp_path / 'run'}"
    command = [*launch, method, *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_log(tmp_path / "run" / "metrics.csv")["step"] == [1, 2]
    more = {"groups", "groups.jsonl"} if method == "grpo" else set()
    assert {path.name for path in (tmp_path / "run").iterdir()} == more | {
        "README.md", "config.json", "env.json", "metrics.csv", "model"}
    folders = tmp_path / "run" / "model", Path(tiny_folder)
    trained, start = (load_file(folder / "model.safetensors") for folder in folders)
    assert trained.keys() == start.keys()
    if method == "sft":  # random text of a random model is paid nothing
        assert any(not torch.equal(trained[name], start[name]) for name in start)
    assert read_json(tmp_path / "run" / "config.json")["settings"]["accumulate"] == 2


def test_two_processes_test_a_model_as_one_does(tmp_path: Path) -> None:
    """`evaluate` under a launcher: each process answers its part, and one of them writes and prints."""
    rows = miniature.test_rows(count=5, negatives=2).select_columns(["image", "problem", "solution"])
    rows.to_parquet(tmp_path / "rows.parquet")
    test = ["evaluate", "--data", str(tmp_path / "rows.parquet"), "--threads", "1", "--out"]
    launch = [*LAUNCH, "--master-port", "29520", "--no-python", "--", VISUAL_RFT]
    printed = {}
    for name, start in (("one", [VISUAL_RFT]), ("two", launch)):
        command = [*start, *test, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        printed[name] = json.loads(done.stdout)
    assert printed["one"] == printed["two"] == read_json(tmp_path / "two" / "summary.json")
    assert printed["one"]["well_formed"] > 0.5
    texts = [(tmp_path / name / "completions.jsonl").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1] and texts[0].count("\n") == len(rows)
    parts = [len(read_completions(tmp_path / "two" / f"shard-{index}-of-2")) for index in range(2)]
    assert sorted(parts) == [3, 4]
