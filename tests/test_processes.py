"""Two processes train as one does: the gradients of a group spread over machines are those of one machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes.py")


def trained(start: str, out: Path, mode: str, processes: int) -> dict[str, torch.Tensor]:
    """The weights after one step of gradient descent."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"] if processes > 1 else []
    command = [sys.executable, *launch, str(SCRIPT), start, str(out), mode]
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
