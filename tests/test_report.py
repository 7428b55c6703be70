"""Pages about runs: whole, small and harmless, whatever lies in the folder; and the command that opens notebooks."""

import base64
import hashlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from visual_rft import cli
from visual_rft.cli import main
from visual_rft.report import LARGEST, MOST_PARTS, read_run, report_page, write_report

RUNS = Path(__file__).parents[1] / "data" / "runs"
EVIL = "</td></script></style><script>alert(1)</script><img src=x onerror=alert(1)>\"' $x_{$ <a href=javascript:a()>"
ALLOWED = set("""html head meta title style body nav a section h1 h2 h3 p ul li bdi i b br code div details summary
    label input output table tr th td img span script""".split())
RECORDED = ["groups-grpo", "compare-seed0", "compare-seed0/grpo", "compare-seed0/base", "tiny-vlm", "pretraining",
            "studies/few-shot-detection", "bench-step", "fuzz"]  # fmt: skip


class Elements(HTMLParser):
    """Every element of a page with its attributes, and every text."""

    def __init__(self, page: str):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, text: str) -> None:
        self.texts.append(text)


def dangers(page: str) -> list[str]:
    """Everything in a page that could act, fetch or break out."""
    seen = Elements(page)
    found = [f"element {tag}" for tag, _ in seen.found if tag not in ALLOWED]
    for tag, attributes in seen.found:
        found += [f"{tag} {name}" for name in attributes if name.startswith("on")]
        links = [attributes[name] or "" for name in ("src", "href", "action", "srcset") if name in attributes]
        found += [f"{tag} {link[:60]}" for link in links if not link.startswith(("data:image/", "#"))]
        found += [f"{tag} style {attributes['style']}" for _ in "1" if "url(" in (attributes.get("style") or "")]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = next(attributes["content"] for tag, attributes in seen.found if "http-equiv" in attributes)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    if hashes != re.findall(r"'sha256-(.*?)'", policy) or not policy.startswith("default-src 'none'; img-src data:;"):
        found.append(f"policy {policy}")
    return found


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run with hostile texts in every file, and in the name of its folder and of one below."""
    run = tmp_path / "<img src=x onerror=alert(1)> $x_{$"
    shutil.copytree(RUNS / "groups-grpo", run)
    groups = [json.loads(line) for line in (run / "groups.jsonl").read_text().splitlines()]
    for group in groups:
        group |= dict(problem=EVIL, solution=EVIL, rewards={EVIL: group["rewards"]["detection_iou"]})
        group["completions"] = [EVIL, f"<think>{EVIL}</think><answer>{EVIL}</answer>"] * 4
    (run / "groups.jsonl").write_text("".join(json.dumps(group) + "\n" for group in groups))
    below = run / "<script>alert(2)<"
    below.mkdir()
    for folder in (run, below):
        (folder / "config.json").write_text(json.dumps({EVIL: EVIL, "command": EVIL, "task": EVIL, "steps": {EVIL: 1}}))
        (folder / "env.json").write_text(json.dumps({"commit": EVIL, "packages": {"torch": EVIL}}))
        (folder / "summary.json").write_text(json.dumps({EVIL: 1.0, "a": {EVIL: 2}}))
        (folder / "table.md").write_text(f"| {EVIL} | b |\n|---|---|\n| 1 | {EVIL} |\n")
        (folder / "completions.jsonl").write_text(json.dumps(EVIL) + "\n" + json.dumps({"a": EVIL}) + "\n")
        (folder / "metrics.csv").write_text('step,reward,"$x_{$ <b>"\n1,2,nan\n2,inf,4\n')
    shutil.copy(RUNS / "compare-seed0" / "before_after.png", run / "<b onclick=a()>.png")
    return run


@pytest.mark.parametrize("name", RECORDED)
def test_a_page_is_whole_small_and_harmless(name: str) -> None:
    page, parts = report_page(RUNS / name), read_run(RUNS / name)
    assert dangers(page) == [] and len(page.encode()) < LARGEST
    assert not [fault for part in parts for fault in part.faults if "cannot be read" in fault]
    seen = " ".join(Elements(page).texts)
    first = parts[0]
    assert all(text[:300] in seen for text in [first.settings.get("command", ""), *first.machine.values()])
    assert all(f"{value:.4g}" in seen for part in parts[:20] for row in part.scores.values() for value in row.values())
    assert page.count('class="curves"') == page.count("over training steps; the table below") and "/work" not in page
    for part in parts:
        assert not part.log or part.name in seen
        assert not part.groups or f"After {part.groups[-1].step} steps" in seen


def test_hostile_texts_are_shown_and_do_nothing(hostile: Path) -> None:
    page = report_page(hostile)
    assert dangers(page) == []
    seen = "".join(Elements(page).texts)
    assert seen.count(EVIL) > 100 and hostile.name in seen and "<script>alert(2)<" in seen
    assert "$x_{$ <b>" in seen and page.count("<img") > 24


def test_the_check_can_fail(hostile: Path) -> None:
    page = report_page(hostile)
    assert dangers(page.replace("&lt;img", "<img", 1)) and dangers(page.replace("<h1>", "<h1 onclick=a()>"))
    assert dangers(page.replace("slider.value;", "slider.value ;")) and dangers(page.replace("#s0", "//example.org"))


def test_broken_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUNS / "groups-grpo", run)
    broken = {"config.json": "[1]", "env.json": "[" * 100_000, "metrics.csv": "step,a\nx,y\n", "groups.jsonl": "{}\n",
              "summary.json": json.dumps({"a": 10**400}), "completions.jsonl": '"whole"\n"cut'}  # fmt: skip
    for name, text in broken.items():
        (run / name).write_text(text)
    (part,) = read_run(run)
    assert {fault.split(" ")[0] for fault in part.faults} == set(broken) - {"completions.jsonl"}
    assert part.texts == ["whole"]
    page = report_page(run)
    assert dangers(page) == [] and "whole" in page and "summary.json cannot be read" in page
    assert str(tmp_path) not in page


def test_pictures_that_are_gone_or_damaged_are_grey(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUNS / "groups-grpo", run)
    first, second = sorted((run / "groups").iterdir())[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:200])
    assert dangers(report_page(run)) == []


def test_a_long_run_has_a_small_page_that_says_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUNS / "groups-grpo", run)
    group = json.loads((run / "groups.jsonl").read_text().splitlines()[0])
    text = f"<think>{'&' * 9000}</think><answer>{'&' * 9000}</answer>"
    group |= dict(completions=[text] * 40, advantages=[0.5] * 40, kl=[], rewards={EVIL: [0.0] * 40})
    lines = [json.dumps(group | dict(step=10 * step)) for step in range(300) for _ in range(4)]
    (run / "groups.jsonl").write_text("\n".join(lines) + "\n")
    (run / "completions.jsonl").write_text((json.dumps("<" * 50_000) + "\n") * 500)
    (run / "config.json").write_text(json.dumps({f"{number}{EVIL}": EVIL * 99 for number in range(2000)}))
    page = report_page(run)
    assert len(page.encode()) < LARGEST and dangers(page) == []
    assert re.search(r"Shown: [1-6] of 300 recorded steps", page) and "Shown: 16 of 40 completions" in page
    assert re.search(r"\d+ of 500 completions", page)


def test_a_study_with_many_folders_says_what_is_left_out() -> None:
    parts = read_run(RUNS / "studies" / "few-shot-detection")
    assert len(parts) == 1 + MOST_PARTS and "shown: 40 of the" in report_page(RUNS / "studies" / "few-shot-detection")


@pytest.mark.parametrize("kind", ["empty", "model", "missing", "file"])
def test_what_is_no_run_is_refused_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / kind
    if kind in ("empty", "model"):
        folder.mkdir()
    if kind in ("model", "file"):
        (folder / "config.json" if kind == "model" else folder).write_text("{}")
    assert main(["report", str(folder)]) == 2
    message = capsys.readouterr().err
    what = "holds no run: found none of env.json, metrics.csv" if kind in ("empty", "model") else "is not a folder"
    assert message.startswith(f"visual-rft: error: {folder} {what}") and message.count("\n") == 1


def test_the_page_lies_in_the_folder_or_where_it_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(RUNS / "fuzz", tmp_path / "fuzz")
    assert main(["report", str(tmp_path / "fuzz"), "--out", str(tmp_path / "a" / "b.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "b.html")
    assert write_report(tmp_path / "fuzz") == tmp_path / "fuzz" / "report.html"
    assert (tmp_path / "fuzz" / "report.html").read_text() == (tmp_path / "a" / "b.html").read_text()


# ------------------------------------------------------------------------------------------------------- the notebooks


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What JupyterLab is asked to open."""
    found = []
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", SimpleNamespace(main=found.append))
    return found


def test_lab_opens_the_tour_and_passes_options_on(opened: list[list[str]]) -> None:
    assert main(["lab", "--no-browser", "--port", "9000", "-y"]) == 0
    ((tour, *options),) = opened
    assert tour.endswith("nbs/00_tour.ipynb") and Path(tour).is_file()
    assert options == ["--no-browser", "--port", "9000", "-y"]


def test_other_commands_still_refuse_what_they_do_not_know(opened: list, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["report", "x", "--no-browser"])
    assert "unrecognized arguments: --no-browser" in capsys.readouterr().err and opened == []


def test_lab_says_what_is_missing(
    opened: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("visual_rft.__file__", str(tmp_path / "site-packages" / "visual_rft" / "__init__.py"))
    assert main(["lab"]) == 2
    assert "git clone https://" in capsys.readouterr().err
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "00_tour.ipynb").touch()
    assert cli._tour() == str(tmp_path / "nbs" / "00_tour.ipynb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["lab"]) == 2
    assert "need the package jupyterlab, which is not installed" in capsys.readouterr().err and opened == []
