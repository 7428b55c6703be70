"""The site holds every page and no broken link; the cheat sheet and the teachers' page say what is so."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

from visual_rft.advantages import group_advantages
from visual_rft.boxes import iou, to_thousandths
from visual_rft.evaluation import score_detection
from visual_rft.prompts import completion, detection_answer, detection_prompt
from visual_rft.rewards import REWARD_SETS
from visual_rft.settings import GRPOSettings
from visual_rft.trainer import GRPO_COLUMNS, grpo_config

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import chinese

NOTEBOOKS = sorted((ROOT / "nbs").glob("[!_]*.ipynb"))
SHEET = (ROOT / "docs" / "cheat_sheet.md").read_text(encoding="utf-8")
TEACHERS = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")


def in_nav(entry: object) -> list[str]:
    """The pages below an entry of the navigation, in order."""
    if isinstance(entry, str):
        return [entry]
    return [page for item in (entry.values() if isinstance(entry, dict) else entry) for page in in_nav(item)]


def test_the_navigation_lists_every_notebook_in_the_order_of_the_readme() -> None:
    nav = [page for page in in_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])]
    readme = re.findall(r"\]\((nbs/\w+\.ipynb)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    notebooks = [page for page in nav if page.endswith(".ipynb")]
    assert sorted(notebooks) == [f"nbs/{path.name}" for path in NOTEBOOKS]
    assert notebooks == list(dict.fromkeys(readme))


def test_the_teachers_table_repeats_the_heads_of_the_notebooks() -> None:
    expected = []
    for path in NOTEBOOKS:
        head = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title, need, time = (re.search(pattern, head, re.MULTILINE)[1] for pattern in (
            r"^# (.+)$", r"^\| \*\*You need\*\* \| (.+) \|$", r"^\| \*\*Time\*\* \| (.+) \|$"))
        time = re.sub(r"\s*\(GPU: [^)]*\)$|; on a GPU: .*$", "", time)
        expected.append(f"| [{path.name.split('_')[0]}](../nbs/{path.name}) {title} | {time} | {need} |")
    assert [line for line in TEACHERS.splitlines() if re.match(r"\| \[\d\d", line)] == expected


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a page: for each row, the head of a column to its cell."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def column(name: str) -> list[str]:
    """What stands between backticks in all columns of the cheat sheet with this head."""
    cells = [row[name] for table in tables(SHEET) for row in table if name in row]
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


def test_every_name_of_ours_on_the_cheat_sheet_exists() -> None:
    names = [name for name in re.findall(r"`([a-z]\w*\.[\w.]+)`", SHEET) if not name.endswith(".csv")]
    assert len(names) > 60 and set(column("here")) <= set(names)
    for name in names:
        module, first, *rest = name.split(".")
        found = getattr(importlib.import_module(f"visual_rft.{module}"), first)
        assert not rest or rest[0] in {field.name for field in fields(found)}, name


def test_every_option_of_trl_on_the_cheat_sheet_exists() -> None:
    outside = {"reward_funcs", "peft_config", "GRPOTrainer", "RLOOTrainer", "frac_reward_zero_std"}
    options = {field.name for field in fields(GRPOConfig)}
    rows = [row for table in tables(SHEET) for row in table]
    assert len(column("TRL option")) > 10 and len(column("GRPOConfig")) > 15
    for name in ("TRL", "TRL option", "GRPOConfig"):
        assert set(column(name)) - outside <= options
    config = grpo_config(GRPOSettings(), "unused")
    single = [row for row in rows if row.get("weight of a token") == ""]  # an option that is no choice of a loss
    assert len(single) == 5
    for row in single:
        value = row["its value"].split("`")[1]
        assert str(getattr(config, row["TRL option"].strip("`"))) == value, row
    fixed = dict(top_p=1, top_k=0, max_grad_norm=1, adam_beta2=0.99, logging_steps=1, save_total_limit=1)
    for name, value in fixed.items():
        assert f"`{name}` {value}" in SHEET and getattr(config, name) == value


def test_settings_and_defaults_on_the_cheat_sheet() -> None:
    rows = next(table for table in tables(SHEET) if "GRPOSettings" in table[0])
    ours = {row["GRPOSettings"].strip("`"): row["default"] for row in rows}
    assert ours == {f.name: str(f.default) or "(empty)" for f in fields(GRPOSettings)}
    theirs = {field.name: field.default for field in fields(GRPOConfig)}
    for row in rows:
        if row["TRL's default"]:
            default = theirs[row["GRPOConfig"].strip("`")]
            assert getattr(default, "value", str(default)) == row["TRL's default"], row


def test_metrics_on_the_cheat_sheet() -> None:
    source = "".join(Path(importlib.import_module(part.__module__).__file__).read_text(encoding="utf-8")
                     for part in (GRPOTrainer, Trainer))
    rows = next(table for table in tables(SHEET) if "TRL logs" in table[0])
    kept: dict[str, set[str]] = {}
    for row in rows:
        for key in re.findall(r"`([^`]+)`", row["TRL logs"]):
            assert f'"{key.replace("NAME", "{reward_func_name}")}"' in source, key
            kept[key] = set(re.findall(r"`(\w+)`", row["our column"]))
    expected: dict[str, set[str]] = {}
    for key, name in GRPO_COLUMNS.items():
        expected.setdefault(re.sub("^rewards/.+/mean$", "rewards/NAME/mean", key), set()).add(name)
    assert {key: names for key, names in kept.items() if names} == expected


def test_the_numbers_of_the_quiz() -> None:
    answers = re.findall(r"<summary>Answer</summary>\n\n(.+?)\n\n</details>", TEACHERS)
    assert len(answers) == len(re.findall(r"^\*\*\d+\.\*\* ", TEACHERS, re.MULTILINE)) == 27
    said = " ".join(answers)
    assert "(c). $x$" in said and to_thousandths([[100, 50, 300, 150]], 400, 200).tolist() == [[250, 250, 750, 750]]
    assert "1/3: the shared" in said and iou([(0, 0, 4, 2)], [(2, 0, 6, 2)])[0, 0] == pytest.approx(1 / 3)
    cats = [(0, 0, 200, 200), (500, 500, 700, 700)]
    reply, truth = completion(detection_answer(cats[:1], [1.0]), "One."), f"{completion(detection_answer(cats))}"
    values = [REWARD_SETS[name]["detection"][0]([reply], [truth])[0] for name in ("robust", "paper")]
    assert "2/3, and 1:" in said and values == pytest.approx([2 / 3, 1])
    cat = completion(detection_answer(cats[:1]))

    def paid(confidence: float) -> float:
        """The mean reward of a box that is the first four fifths of the cat, or nowhere, with even chances."""
        boxes = [(0, 0, 160, 200)], [(800, 800, 900, 900)]
        replies = [completion(detection_answer(box, [confidence]), "One.") for box in boxes]
        return sum(REWARD_SETS["robust"]["detection"][1](replies, [cat, cat]))

    assert "(a). The score is proper" in said and max((0.4, 0.5, 0.8, 1.0), key=paid) == 0.4
    nowhere = completion(detection_answer([(800, 800, 900, 900)], [0.0]), "One.")
    assert REWARD_SETS["paper"]["detection"][1]([nowhere], [cat]) == [1]
    assert "1.5, −0.5" in said
    assert group_advantages([1, 0, 0, 0], 4).tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)


def test_the_average_precision_of_the_quiz() -> None:
    import datasets

    four = [(0, 0, 100, 100), (200, 0, 300, 100), (400, 0, 500, 100), (600, 0, 700, 100)]
    row = dict(problem=detection_prompt("cat"), solution=completion(detection_answer(four)), category="cat")
    rows = datasets.Dataset.from_list([row])
    value, half = (score_detection(rows, [completion(detection_answer(four[:2], [c, c - 0.1]), "Two.")])["AP50"]
                   for c in (0.9, 0.4))
    assert "51/101" in TEACHERS and value == half == pytest.approx(51 / 101)


class Page(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    def __init__(self, path: Path):
        super().__init__()
        self.places, self.links, self.fetched = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.places.add(known.get("id"))
        links = self.links if tag == "a" else self.fetched
        links += [known[name] for name in ("href", "src", "data", "poster") if known.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole site, built from the checkout."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_link_of_the_site_is_broken_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    faults, followed = [], 0
    for path, page in pages.items():
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.fetched and parts.scheme != "data":
                    faults.append(f"{path.name} fetches {link}")
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            goal = goal / "index.html" if goal.is_dir() else goal
            followed += 1
            if path.name != "404.html" and not goal.is_file():
                faults.append(f"{path.name} leads to {link}, which is not there")
            elif unquote(parts.fragment) and goal in pages and unquote(parts.fragment) not in pages[goal].places:
                faults.append(f"{path.name} leads to {link}, which has no such place")
    assert faults == [] and len(pages) > 90 and followed > 5000


def test_the_site_holds_every_notebook_and_every_function(site: Path) -> None:
    for path in NOTEBOOKS:
        html = (site / "nbs" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "jupyter-wrapper" in html and "mathjax-config" not in html and len(html) < 1_000_000, path.name
    for path in (ROOT / "visual_rft").glob("[!_]*.py"):
        names = importlib.import_module(f"visual_rft.{path.stem}").__all__
        assert set(names) <= Page(site / "api" / f"{path.stem}.html").places, path.stem
    signature = re.sub("<[^>]+>", "", (site / "api" / "advantages.html").read_text(encoding="utf-8"))
    assert "# G, completions a prompt" in signature


def test_the_main_notebooks_are_there_in_chinese(site: Path) -> None:
    for name in chinese.MAIN:
        html = (site / "zh" / f"{name}.html").read_text(encoding="utf-8")
        assert len(re.findall("[\u4e00-\u9fff]", html)) > 300, name
    assert 'href="04_rewards.html"' in (site / "zh" / "05_advantages.html").read_text(encoding="utf-8")


def test_formulas_are_marked_and_dollars_are_not_formulas(site: Path) -> None:
    html = (site / "nbs" / "11_grpo.html").read_text(encoding="utf-8")
    assert html.count('class="arithmatex"') > 100 and (site / "docs" / "assets" / "tex-svg.js").is_file()
    assert not re.search(r"\$\\", re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL))


def test_search_knows_the_pages(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    found = {entry["location"].split("#")[0] for entry in index if "advantage" in entry["text"].lower()}
    assert {"nbs/05_advantages.html", "api/advantages.html", "docs/cheat_sheet.html", "index.html"} <= found


def test_search_knows_chinese_words(site: Path) -> None:
    """Sentences are divided into words by marks of no width, at which the search divides too."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    text = next(entry["text"] for entry in index["docs"] if entry["location"] == "zh/05_advantages.html")
    words = set(re.split(index["config"]["separator"], text))
    assert {"奖励", "优势"} <= words and max(len(re.findall("[\u4e00-\u9fff]", word)) for word in words) < 9
