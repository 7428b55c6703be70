"""Tables: what is chosen, what is tested, what is not done twice. Training is replaced by numbers."""

from pathlib import Path

import pytest

from visual_rft import ablations, reproduce
from visual_rft.records import read_json, write_json
from visual_rft.reproduce import Plan, headline_table, read_cells, run_cell, study_table
from visual_rft.settings import SFTSettings
from visual_rft.studies import STUDIES

VALIDATION = {"sft-0.0001": 0.3, "sft-0.0003": 0.5, "sft-0.001": 0.4, "grpo": 0.6, "grpo-plain": 0.7}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were trained or tested, in order; nothing is trained."""
    seen: list[str] = []

    def fine_tune(method, start, rows, settings, folder, command="", **details):
        seen.append(f"train {folder.name}")
        write_json(_made(folder) / "weights.json", details)
        return folder.name, None

    def score_once(model, processor, rows, folder, **more):
        seen.append(f"score {folder.parent.name}/{folder.name}")
        return dict(AP=VALIDATION[folder.parent.name], AP50=0.9, mean_iou=0.5, well_formed=1.0)

    monkeypatch.setattr(reproduce, "fine_tune", fine_tune)
    monkeypatch.setattr(reproduce, "score_once", score_once)
    monkeypatch.setattr(reproduce.models, "load", lambda place: (Path(place).parent.name, None))
    monkeypatch.setattr(reproduce, "trained_seconds", lambda folder: 1.0)
    return seen


def _made(folder: Path) -> Path:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    return folder / "model"


def test_the_rate_that_validates_best_is_tested_and_no_other(calls: list[str], tmp_path: Path) -> None:
    cell = run_cell(Plan("few-shot-detection"), 1, 0, tmp_path / "shots-1-seed-0")
    assert cell["sft_learning_rate"] == 3e-4 and set(cell) == {*reproduce.ARMS, "sft_learning_rate"}
    tested = [call for call in calls if call.endswith("few-shot")]
    assert tested == ["score sft-0.0003/few-shot", "score grpo/few-shot", "score grpo-plain/few-shot"]
    assert calls.index(tested[0]) > max(n for n, call in enumerate(calls) if call.endswith("validation"))


def test_a_finished_cell_is_read_and_its_weights_are_gone(calls: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "shots-1-seed-0"
    first = run_cell(Plan("few-shot-detection"), 1, 0, folder)
    calls.clear()
    assert run_cell(Plan("few-shot-detection"), 1, 0, folder) == first and calls == []
    assert not list(folder.glob("*/model"))


def test_a_cell_without_an_arm_is_completed_and_the_rest_is_kept(calls: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "shots-1-seed-0"
    first = run_cell(Plan("few-shot-detection"), 1, 0, folder)
    done = [(name, "validation") for name in VALIDATION if name != "grpo-plain"]
    for name, test in [*done, ("sft-0.0003", "few-shot"), ("grpo", "few-shot")]:  # what score_once would have written
        (folder / name / test).mkdir(parents=True)
        write_json(folder / name / test / "summary.json", dict(AP=VALIDATION[name]))
    write_json(folder / "summary.json", {arm: first[arm] for arm in ("SFT", "GRPO")} | dict(sft_learning_rate=3e-4))
    calls.clear()
    assert set(run_cell(Plan("few-shot-detection"), 1, 0, folder)) == {*reproduce.ARMS, "sft_learning_rate"}
    assert [call for call in calls if call.startswith("train")] == ["train grpo-plain"]


def test_keep_keeps_the_weights(calls: list[str], tmp_path: Path) -> None:
    run_cell(Plan("few-shot-detection"), 1, 0, tmp_path / "shots-1-seed-0", keep=True)
    assert len(list(tmp_path.glob("*/*/model"))) == 5


def test_a_cell_that_breaks_off_leaves_no_summary(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*values, **options):
        raise KeyboardInterrupt

    whole = reproduce._tested
    monkeypatch.setattr(reproduce, "_tested", broken)
    with pytest.raises(KeyboardInterrupt):
        run_cell(Plan("few-shot-detection"), 1, 0, tmp_path / "cell")
    assert not (tmp_path / "cell" / "summary.json").exists() and len(list(tmp_path.glob("cell/*/model"))) == 5
    monkeypatch.setattr(reproduce, "_tested", whole)
    assert run_cell(Plan("few-shot-detection"), 1, 0, tmp_path / "cell")["sft_learning_rate"] == 3e-4


def test_settings_of_a_study_reach_grpo_and_not_sft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = {}
    monkeypatch.setattr(reproduce, "fine_tune", lambda method, start, rows, settings, *rest, **more: (
        seen.setdefault(method, (start, settings)), None
    ))
    monkeypatch.setattr(reproduce, "score_once", lambda *values, **more: dict(accuracy=0.5, mean_iou=0.5))
    for method in ("sft", "grpo"):
        reproduce.train_arm(Plan("few-shot-classification"), method, True, 1, 7, tmp_path)
    assert seen["grpo"][1].temperature == STUDIES["few-shot-classification"].grpo["temperature"]
    assert seen["grpo"][1].seed == 7
    assert seen["sft"][1] == SFTSettings(seed=7)
    seen.clear()
    reproduce.train_arm(Plan("reasoning-grounding"), "sft", False, 1, 0, tmp_path)
    assert seen["sft"][0] == "tiny-vlm-reader"


def record(folder: Path, shots: int, seed: int, sft: float, grpo: float) -> None:
    """A finished cell of few-shot detection."""
    place = folder / "few-shot-detection" / f"shots-{shots}-seed-{seed}"
    place.mkdir(parents=True)
    write_json(place / "summary.json", dict(SFT=dict(AP=sft), GRPO=dict(AP=grpo), sft_learning_rate=1e-4))


def test_tables_are_sorted_by_shots_as_numbers(tmp_path: Path) -> None:
    for shots in (16, 2, 4):
        record(tmp_path, shots, 0, 0.1, 0.2)
    cells = read_cells(tmp_path / "few-shot-detection")
    start = {"start": dict(AP=0.0), "start, plain question": dict(AP=0.1)}
    lines = study_table(STUDIES["few-shot-detection"], start, cells).splitlines()
    assert [line.split("|")[1].strip() for line in lines[3:]] == ["2", "4", "16"]
    assert "(one seed)" in lines[3]


def test_the_headline_has_means_errors_and_both_starts(tmp_path: Path) -> None:
    for arm, level in (("start", 0.05), ("start-plain", 0.09)):
        (tmp_path / "few-shot-detection" / arm / "few-shot").mkdir(parents=True)
        write_json(tmp_path / "few-shot-detection" / arm / "few-shot" / "summary.json", dict(AP=level))
    for seed, (sft, grpo) in enumerate(((0.1, 0.3), (0.3, 0.3), (0.2, 0.3))):
        record(tmp_path, 4, seed, sft, grpo)
    record(tmp_path, 8, 0, 0.9, 0.9)
    (line,) = headline_table(tmp_path).splitlines()[2:]
    assert line == ("| few-shot detection, AP | 4 | 0.090 / 0.050 | 0.200 ± 0.058 | 0.300 ± 0.000 |  | "
                    "0.100 ± 0.058 |  | 3 |")


def test_unknown_names_are_errors_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown table 'few-shots'.*reasoning-grounding"):
        reproduce.find_study("few-shots")
    with pytest.raises(ValueError, match="unknown arm 'no-arm'.*searched"):
        ablations.run_ablations(tmp_path, names=["no-arm"])


def test_an_ablation_is_compared_within_its_seed(tmp_path: Path) -> None:
    for seed, ap in ((0, 0.1), (1, 0.5)):
        record(tmp_path, 4, seed, 0.0, ap)
    (tmp_path / "ablations" / "kl" / "seed-1").mkdir(parents=True)
    write_json(tmp_path / "ablations" / "kl" / "seed-1" / "summary.json", dict(AP=0.4))
    text = ablations.ablation_table(tmp_path / "ablations", tmp_path / "few-shot-detection")
    (line,) = [line for line in text.splitlines() if "beta" in line]
    assert "| 0.400 (one seed) | -0.100 (one seed) |" in line


def test_finished_arms_are_not_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "arm"
    folder.mkdir()
    write_json(folder / "summary.json", dict(AP=0.25))
    broken = ablations.Arm("cannot be run", method="nothing")
    assert ablations.run_arm(broken, 0, folder) == dict(AP=0.25) == read_json(folder / "summary.json")
