"""Runs: records, resuming after a kill, one clear error for each mistake."""

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from visual_rft import miniature, pretraining, prompts
from visual_rft.cli import main
from visual_rft.experiments import fine_tune
from visual_rft.groups import read_groups
from visual_rft.records import forget_after, last_checkpoint, log_line, read_log, sole_use, start_run
from visual_rft.settings import GRPOSettings, PretrainConfig, SFTSettings

VISUAL_RFT = [str(Path(sys.executable).with_name("visual-rft"))]
SMALL = {
    "grpo": "--steps 4 --save-every 2 --prompts 2 --group 2 --max-completion-length 8 --shots 1".split(),
    "sft": "--steps 4 --save-every 2 --batch 2 --shots 1".split(),
    "pretrain": "--stage look --steps 4 --every 2 --scenes 1 --singles 1".split(),
}
SMALL["grpo-lora"] = [*SMALL["grpo"], "--lora-rank", "4"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def command(method: str, folder: Path, model: str) -> list[str]:
    start = [] if method == "pretrain" else ["--model", model]
    return [*VISUAL_RFT, method.split("-")[0], *SMALL[method], *start, "--threads", "1", "--out", str(folder)]


def half_done(method: str, folder: Path) -> bool:
    if method == "pretrain":
        return (folder / "checkpoint.safetensors").is_file()
    return (folder / "checkpoint-2" / "trainer_state.json").is_file()


@pytest.mark.parametrize("method", SMALL)
def test_a_killed_run_ends_like_an_unbroken_one(method: str, tmp_path: Path, tiny_folder: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(method, whole, tiny_folder), check=True, capture_output=True)
    process = subprocess.Popen(
        command(method, broken, tiny_folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 240
    while not half_done(method, broken) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "model" / "model.safetensors").is_file(), "the kill came too late to prove anything"
    subprocess.run(command(method, broken, tiny_folder), check=True, capture_output=True)
    first, second = weights(whole / "model"), weights(broken / "model")
    assert all(torch.equal(first[name], second[name]) for name in first)
    columns = [read_log(folder / "metrics.csv") for folder in (whole, broken)]
    for name in set(columns[0]) - {"seconds", "seconds_a_step"}:
        assert columns[0][name] == pytest.approx(columns[1][name], nan_ok=True), name
    if method.startswith("grpo"):
        assert (whole / "groups.jsonl").read_text() == (broken / "groups.jsonl").read_text()
        assert len(read_groups(broken)) == 2  # the prompts of step 0, and none twice


def test_a_killed_evaluation_ends_like_an_unbroken_one(tmp_path: Path, tiny_folder: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    test = [*VISUAL_RFT, "evaluate", "--task", "few-shot", "--model", tiny_folder, "--threads", "1", "--out"]
    subprocess.run([*test, str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*test, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while not (broken / "completions.jsonl").is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "summary.json").is_file(), "the kill came too late to prove anything"
    done = (broken / "completions.jsonl").read_bytes()
    subprocess.run([*test, str(broken)], check=True, capture_output=True)
    for name in ("completions.jsonl", "summary.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert (broken / "completions.jsonl").read_bytes().startswith(done[:done.rfind(b"\n") + 1])


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """The averaged gradient of two halves is the gradient of their mean loss."""
    config = PretrainConfig(stage="look", steps=1, scenes=2, singles=2, warmup=1)
    options = "--stage look --steps 1 --scenes 2 --singles 2 --warmup 1 --threads 1".split()
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
        "--",
    ]
    command = [*torchrun, *VISUAL_RFT, "pretrain", *options, "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    model, tokenizer, heads = pretraining.new_model(config)
    optimizer = pretraining._optimizer({"model": model, "heads": heads})
    optimizer.param_groups[0]["lr"] = pretraining.schedule(config, 0)
    for rank in (0, 1):
        share = pretraining._share_of(config, rank, 2)
        loss, _ = pretraining.look_step(model, tokenizer, heads, share, 0)
        (loss / 2).backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    found = weights(tmp_path / "model")
    gaps = torch.cat(
        [(value - found[name]).abs().flatten() for name, value in model.state_dict().items() if name in found]
    )
    assert gaps.median() < 1e-6 and (gaps > 1e-4).float().mean() < 0.01


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    start_run(tmp_path, dict(steps=3, seed=1, command="a"))
    assert start_run(tmp_path, dict(steps=3, seed=1, command="b")) == tmp_path
    with pytest.raises(ValueError, match="holds another run: steps was 3, now 4"):
        start_run(tmp_path, dict(steps=4, seed=1))
    recorded = json.loads((tmp_path / "env.json").read_text())
    assert (
        recorded["packages"]["torch"] == torch.__version__.split("+")[0]
        or recorded["packages"]["torch"] == torch.__version__
    )


def test_a_start_of_which_nothing_came_gives_its_folder_up_to_who_holds_it(tmp_path: Path) -> None:
    start_run(tmp_path, dict(steps=3, loss="dapoo"))
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / "a.png").touch()
    (tmp_path / "groups.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="holds another run: loss was 'dapoo', now 'dapo'"):
        start_run(tmp_path, dict(steps=3, loss="dapo"))  # it may have just begun
    start_run(tmp_path, dict(steps=3, loss="dapo"), held=True)
    assert json.loads((tmp_path / "config.json").read_text()) == dict(steps=3, loss="dapo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "env.json"]  # no groups of the other
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ValueError, match="holds another run: loss was 'dapo', now 'grpo'"):
        start_run(tmp_path, dict(steps=3, loss="grpo"), held=True)
    assert json.loads((tmp_path / "config.json").read_text()) == dict(steps=3, loss="dapo")


def test_equal_rows_are_the_same_run_wherever_they_are_from(tmp_path: Path) -> None:
    """A file that was moved, and records that name their rows otherwise; without a hash the words decide."""
    start_run(tmp_path / "a", dict(data_hash="x", data="", study="few-shot-detection", shots=4))
    start_run(tmp_path / "a", dict(data_hash="x", data="moved.jsonl"))
    with pytest.raises(ValueError, match="data_hash was 'x', now 'y'"):
        start_run(tmp_path / "a", dict(data_hash="y"))
    start_run(tmp_path / "b", dict(shots=1))
    with pytest.raises(ValueError, match="shots was 1, now 2"):
        start_run(tmp_path / "b", dict(shots=2))


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    code = "import sys; from visual_rft.records import sole_use\n"
    code += "with sole_use(sys.argv[1]): print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="in use by another process"), sole_use(tmp_path):
            pass
        rows = miniature.few_shot_rows(1, 0, miniature.FEW_SHOT[:1])
        with pytest.raises(ValueError, match="in use by another process"):
            fine_tune("sft", "", rows, SFTSettings(steps=1), tmp_path)
        assert not (tmp_path / "metrics.csv").exists() and not (tmp_path / "config.json").exists()
        other.kill()
    with sole_use(tmp_path), pytest.raises(ValueError, match="in use"), sole_use(tmp_path):
        pass  # it was free again, and is held now


def test_a_drive_without_locks_is_written_to_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr("visual_rft.records.fcntl.flock", refuse)
    with sole_use(tmp_path):
        (tmp_path / "written").touch()
    assert (tmp_path / "written").exists()


def test_a_finished_run_is_loaded_in_the_number_format_of_its_training(tmp_path: Path) -> None:
    rows = miniature.few_shot_rows(1, 0, miniature.FEW_SHOT[:1])
    settings = SFTSettings(steps=1, batch=1, dtype="bfloat16", lora_rank=2)
    first, again = (fine_tune("sft", "", rows, settings, tmp_path)[0] for _ in range(2))
    assert first.dtype == again.dtype == torch.bfloat16


def test_only_the_first_of_several_processes_takes_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sole_use(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with sole_use(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(ValueError, match="in use"), sole_use(tmp_path):
            pass


def test_lines_after_a_checkpoint_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for step in range(1, 6):
        log_line(path, dict(step=step, loss=step / 10))
    forget_after(path, 3)
    assert read_log(path) == dict(step=[1.0, 2.0, 3.0], loss=[0.1, 0.2, 0.3])
    assert last_checkpoint(tmp_path) is None and last_checkpoint(tmp_path / "nowhere") is None


# ---------------------------------------------------------------------------------------------------- mistakes


def run(*words: str) -> tuple[int, str]:
    done = subprocess.run([*VISUAL_RFT, *words], capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    row = dict(image="a.png", problem=prompts.detection_prompt("cat"), solution=prompts.completion("No Objects"))
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    return path


def mistake(kind: str, rows: Path) -> tuple[list[str], str]:
    """A command line with one mistake in it, and the word that the error must name."""
    row, folder = json.loads(rows.read_text()), rows.parent
    grpo = ["grpo", "--data", str(rows), "--out", str(folder / "out")]
    if kind == "missing image":
        rows.write_text(json.dumps(row | dict(image="gone.png")))
        return grpo, "gone.png"
    if kind == "unreadable image":
        (folder / "a.png").write_text("x")
        return grpo, "a.png"
    if kind == "missing column":
        rows.write_text(json.dumps({k: v for k, v in row.items() if k != "solution"}))
        return grpo, "solution"
    if kind == "empty data set":
        rows.write_text("")
        return grpo, "rows.jsonl"
    if kind == "unknown category":
        return ["compare", "--quick", "--categories", "cat,unicorn", "--out", str(folder / "out")], "unicorn"
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    return ["evaluate", "--model", str(folder / "model")], "safetensors"


KINDS = ["missing image", "unreadable image", "missing column", "empty data set", "unknown category", "no weights"]


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_are_one_clear_line(kind: str, rows: Path) -> None:
    words, culprit = mistake(kind, rows)
    earlier = rows.parent / "out" / "base" / "summary.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text('{"AP": 0.5}')
    code, text = run(*words)
    errors = [line for line in text.splitlines() if line.startswith("visual-rft: error:")]
    assert code == 2 and len(errors) == 1 and culprit in errors[0] and "Traceback" not in text
    assert earlier.read_text() == '{"AP": 0.5}'


def test_help_explains_every_option(capsys) -> None:
    for words in (["--help"], ["compare", "--help"], ["grpo", "--help"], ["pretrain", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--beta" in text and "KL divergence" in text and str(GRPOSettings.learning_rate) in text
