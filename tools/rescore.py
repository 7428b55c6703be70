"""Score recorded answers again, for when the scorer has changed: answers stay, AP and AP50 are computed anew.

    python tools/rescore.py data/runs
"""

import sys
from functools import cache
from pathlib import Path

import datasets

from visual_rft import miniature
from visual_rft.ablations import ARMS as ABLATIONS
from visual_rft.evaluation import read_completions, score_detection
from visual_rft.experiments import table
from visual_rft.records import read_json, write_json, write_text
from visual_rft.reproduce import _FOLDERS
from visual_rft.studies import STUDIES

DETECTION = STUDIES["few-shot-detection"]


@cache
def rows_of(study: str, test: str) -> datasets.Dataset:
    """The rows of a recorded detection test, without pictures; how they were asked does not matter for AP."""
    known = STUDIES.get(study, DETECTION)
    if test == "validation":
        rows = known.validation(False)
    elif study == "tiny-vlm" or study == "probes":
        rows = miniature.benchmark(test)
    elif test in known.tests:
        rows = known.tests[test](False)
    else:
        rows = DETECTION.tests["few-shot"](False)
    return rows.remove_columns("image")


def place_of(folder: Path) -> tuple[str, str]:
    """Study and test of a folder with answers."""
    study = next((part for part in folder.parts if part in (*STUDIES, "tiny-vlm", "probes")), "few-shot-detection")
    return study, folder.name


def rescore(folder: Path) -> tuple[float, float]:
    """Score the answers in a folder again; AP before and after."""
    known = read_json(folder / "summary.json")
    found = score_detection(rows_of(*place_of(folder)), read_completions(folder))
    write_json(folder / "summary.json", known | {name: found[name] for name in ("AP", "AP50")})
    return known["AP"], found["AP"]


def _renewed(scores: dict, folder: Path, front: str = "") -> dict:
    """Scores with AP and AP50 taken from a test's own summary."""
    own = read_json(folder / "summary.json")
    return scores | {front + name: own[name] for name in ("AP", "AP50") if name in own}


def renew_cell(cell: Path) -> None:
    """Bring the summary of a cell up to date with those of its tests."""
    summary = read_json(cell / "summary.json")
    study = STUDIES[next(part for part in cell.parts if part in STUDIES)]
    for arm in [name for name in summary if isinstance(summary[name], dict)]:
        place = cell / _FOLDERS.get(arm, f"sft-{summary['sft_learning_rate']:g}")
        for number, test in enumerate(study.tests):
            summary[arm] = _renewed(summary[arm], place / test.replace(" ", "-"), f"{test}: " if number else "")
    write_json(cell / "summary.json", summary)


def renew_comparison(folder: Path) -> None:
    """Bring summary and table of a recorded `compare` up to date."""
    summary = read_json(folder / "summary.json")
    places = {"start": "base", "start, plain question": "base-plain", "GRPO": "grpo",
              "SFT": f"sft-{summary['sft_learning_rate']:g}"}
    summary |= {arm: _renewed(summary[arm], folder / place) for arm, place in places.items()}
    write_json(folder / "summary.json", summary)
    write_text(folder / "table.md", table({arm: summary[arm] for arm in places if arm in summary}) + "\n")


def main(root: Path) -> None:
    """Score every recorded detection test below a folder again, then all that was summed up from them."""
    for answers in sorted(root.rglob("completions.jsonl")):
        folder = answers.parent
        if (folder / "summary.json").is_file() and "AP" in read_json(folder / "summary.json"):
            before, after = rescore(folder)
            print(f"{folder}: {before:.3f} -> {after:.3f}", flush=True)
    for name in ("few-shot-detection", "open-vocabulary"):
        for summary in sorted(root.glob(f"**/{name}/shots-*/summary.json")):
            renew_cell(summary.parent)
    for summary in sorted(root.glob("**/compare-seed*/summary.json")):
        renew_comparison(summary.parent)
    for summary in sorted(root.glob("**/ablations/*/seed-*/summary.json")):
        best = summary.parent / f"rate-{read_json(summary)['learning_rate']:g}" / "test"
        if summary.parts[-3] in ABLATIONS:
            write_json(summary, _renewed(read_json(summary), best))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
