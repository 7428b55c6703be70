"""Every figure and every number in README and in the notebooks of results traces to a recorded run."""

import csv
import functools
import json
import re
import statistics
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path

import pytest

from visual_rft import ablations, reproduce
from visual_rft.benchmark import PAPER_PIXELS, PAPER_TOKENS
from visual_rft.gauntlet import ATTACKS
from visual_rft.miniature import BASE, NOVEL
from visual_rft.records import read_json

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "data" / "runs"
NOTEBOOKS = sorted((ROOT / "nbs").glob("[!_]*.ipynb"))
RESULTS = [path for path in NOTEBOOKS if re.match(r"16_ledger|18_|2\d_", path.name)]
FIGURES = [path for path in NOTEBOOKS if re.match(r"2[012367]_", path.name)]
FENCED, URLS = r"(?s)^```.*?^```", r"(?<=\]\()[^)\s]+(?=\))|https?://[^\s)>\"]+"
ARXIV = r"(?i)\barxiv[: ]\d{4}\.\d{5}"


def seeds() -> list[dict[str, dict]]:
    """What `visual-rft compare` found: the scores of each arm, by seed."""
    found = [read_json(path) for path in sorted(RUNS.glob("compare-seed*/summary.json"))]
    return [{arm: scores for arm, scores in seed.items() if isinstance(scores, dict)} for seed in found]


def summary(folder: str) -> dict:
    """The summary of a run folder."""
    return read_json(RUNS / folder / "summary.json")


def mean(values: Iterable[float], digits: int = 3) -> str:
    """Mean ± standard deviation, as in the first table."""
    values = list(values)
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


# ------------------------------------------------------------- what README has to say, computed from the records


def comparison_table() -> list[str]:
    """The lines of the first table."""
    names = {"start": "the start, asked to think", "start, plain question": "the start, plain question",
             "SFT": "SFT (best of three learning rates)", "GRPO": "GRPO"}  # fmt: skip
    lines = []
    for arm, name in names.items():
        scores = {key: [seed[arm][key] for seed in seeds()] for key in seeds()[0][arm]}
        each = ", ".join(f"{value:.3f}" for value in scores["AP"])
        others = " | ".join(mean(scores[key]) for key in ("AP50", "mean_iou", "well_formed"))
        lines.append(f"| {name} | {mean(scores['AP'])} | {each} | {others} | {mean(scores['train_seconds'], 0)} |")
    return lines


def comparison_text() -> list[str]:
    """What is said below the first table."""
    score, seconds = ({arm: statistics.mean(seed[arm][key] for seed in seeds()) for arm in seeds()[0]}
                      for key in ("AP", "train_seconds"))  # fmt: skip
    first, second, third = (f"{seed['GRPO']['AP'] - seed['SFT']['AP']:.3f}" for seed in seeds())
    gains = score["GRPO"] - score["start"], score["SFT"] - score["start, plain question"]
    share = {2: "half", 3: "a third", 4: "a quarter"}[round(seconds["GRPO"] / seconds["SFT"])]
    settings = read_json(RUNS / "compare-seed0" / "config.json")
    return [
        f"from {8 * settings['shots']} pictures",
        f"from {score['start']:.2f} to {score['GRPO']:.2f}.",
        f"One training of SFT, which is shown the boxes, takes {share} of the time",
        f"GRPO ends above SFT with these three seeds, by {first}, {second} and {third}:",
        f"the gains are {gains[0]:.2f} and {gains[1]:.2f}.",
        f"{settings['test_scenes'] + settings['test_negatives']} other pictures for the test",
        f"is chosen on {settings['validation_scenes']} further pictures",
    ]


def times(folder: str, part: str) -> str:
    """How many times as long TRL and the published way take: two cells, medians over the rounds."""
    rounds = summary(folder)["rounds"]
    ratios = {way: [theirs[part] / ours[part] for theirs, ours in zip(rounds[way], rounds["shared"], strict=True)]
              for way in ("trl", "reference")}  # fmt: skip
    return " | ".join(f"{statistics.median(values):.1f}" for values in ratios.values())


BENCHES = ("bench-step", "bench-step-frozen", "bench-step-paper")


def speed() -> list[str]:
    """The table of speeds, and what it was measured with."""
    configs = [read_json(RUNS / name / "config.json") for name in BENCHES]
    group = configs[0]["group"]
    assert all(config["threads"] == 2 and config["beta"] and config["group"] == group for config in configs)
    tokens = summary("bench-step-paper")["seconds"]["shared"]["tokens"]
    lengths = f"about {PAPER_TOKENS} prompt tokens ({PAPER_PIXELS[0] * PAPER_PIXELS[1] // 16**2} visual), {tokens:.0f}"
    link = "([{0}](data/runs/{0}))".format
    return [
        f"two CPU threads, groups of {group}, reference model on",
        f"everything trained {link('bench-step')} | {times('bench-step', 'step')} |",
        f"vision tower frozen {link('bench-step-frozen')} | {times('bench-step-frozen', 'step')} |",
        f"{lengths} completion tokens {link('bench-step-paper')} | {times('bench-step-paper', 'training')} |",
        f"| a whole step of it | {times('bench-step-paper', 'step')} |",
    ]


def memory_and_rate() -> list[str]:
    """Memory, growth with the group, and the share of the reachable rate."""
    paper, tiny = (summary(name)["bytes"] for name in ("bench-memory-paper", "bench-memory"))
    groups, seconds = (summary("bench-groups")[key] for key in ("groups", "seconds"))
    ours, theirs = (f"{seconds[way][-1] / seconds[way][0]:.1f} times" for way in ("shared", "trl"))
    rates = [f"{100 * summary(name)['share_of_matrix_rate']:.0f}%" for name in ("bench-profile", "bench-profile-paper")]
    return [
        f"takes {paper['shared'] / paper['trl']:.2f} of the memory that TRL's takes",
        f"that of the tiny one {tiny['shared'] / tiny['trl']:.2f} ",
        f"From groups of {groups[0]} to groups of {groups[-1]} a step gets {ours} as long, TRL's {theirs} (",
        f"does {rates[0]} (tiny) and {rates[1]} (wider model) of the operations",
    ]


def attacked_rewards() -> list[str]:
    """Fuzzing, mutation, throughput and the gauntlet."""
    fuzz, mutants, rate = (summary(name) for name in ("fuzz", "mutation", "reward-throughput"))
    assert fuzz["exceptions"] == fuzz["outside_0_to_1"] == 0
    left = len(read_json(RUNS / "mutation" / "survivors.json"))
    assert left == mutants["mutants"] - mutants["caught"]
    robust, released = (statistics.median(rate["rounds"][name]) for name in ("robust", "released"))
    return [
        f"{fuzz['completions']:,} random and mutated completions raised no exception",
        f"the slowest call taking {max(fuzz['slowest_call_ms'].values()):.1f} ms",
        f"of {mutants['mutants']:,} small breaks of parsing",
        f"the tests notice {mutants['caught']:,}, the other {left} are listed",
        f"they score {robust:,.0f} completions of three boxes a second on one core, {robust / released:.2f} times",
        f"{len(ATTACKS)} attempts to cheat them",
        f"the {len(ATTACKS)} attacks of the gauntlet",
    ]


SHIPPED = {  # a benchmark: its line in README
    "base": "find objects of the {base} base categories, unseen views (400 scenes, 100 questions about absent things)",
    "designs": "the same, unseen designs ({count})",
    "novel": "find objects of the {novel} novel categories ({count})",
    "few-shot": "find objects of the eight few-shot categories ({count})",
    "grounding": "find the one object that a phrase names ({count})",
    "naming": "name single objects of all {all} categories, unseen views ({count})",
    "known-artists": "name emoji by artists seen in pre-training ({count})",
    "unseen-artists": "name emoji by artists never seen ({count})",
    "creatures": "name creatures ({count})",
}


def shipped_model() -> list[str]:
    """The table of the tiny VLM, and how long it was trained."""
    lines = []
    for name, line in SHIPPED.items():
        count = len((RUNS / "tiny-vlm" / name / "completions.jsonl").read_text(encoding="utf-8").splitlines())
        title = line.format(base=len(BASE), novel=len(NOVEL), all=len({*BASE, *NOVEL}), count=count)
        assert name != "base" or count == 400 + 100
        names = {"mean_iou": "mean IoU", "well_formed": "well-formed"}
        scores = (f"{names.get(key, key)} {value:.3f}" for key, value in summary(f"tiny-vlm/{name}").items())
        lines.append(f"| {title} | {', '.join(scores)} |")
    hours = {2: "two", 3: "three", 4: "four"}[round(sum(map(stage_seconds, RUNS.glob("pretraining/*"))) / 3600)]
    return [*lines, f"on two CPU cores in about {hours} hours"]


def stage_seconds(folder: Path) -> float:
    """How long a stage of pre-training took, 0 for what is not a stage."""
    if not (folder / "metrics.csv").is_file():
        return 0.0
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        rows = [{key: float(value or 0) for key, value in row.items()} for row in csv.DictReader(file)]
    begun = [0.0, *(row["step"] for row in rows)]
    return sum((row["step"] - step) * row["seconds_a_step"] for row, step in zip(rows, begun))


def museum() -> list[str]:
    """How many exhibits there are."""
    text = "\n".join(markdown(ROOT / "nbs" / "29_failure_museum.ipynb"))
    return [f"{len(re.findall(r'(?m)^### [0-9]+[.] ', text))} failures that people met"]


def headline() -> list[str]:
    """The table over all studies, and the lead on rare creatures below it."""
    cells = reproduce.read_cells(RUNS / "studies" / "open-vocabulary")[4]
    lead = [cell["GRPO, plain question"]["rare: AP"] - cell["SFT"]["rare: AP"] for cell in cells]
    words, ahead = {1: "one", 2: "two", 4: "four", 8: "eight", 16: "sixteen"}, []
    for shots, found in reproduce.read_cells(RUNS / "studies" / "few-shot-detection").items():
        gaps = [cell["GRPO, plain question"]["AP"] - cell["SFT"]["AP"] for cell in found]
        ahead += [words[shots]] if statistics.mean(gaps) > 2 * statistics.stdev(gaps) / len(gaps) ** 0.5 else []
    return [*reproduce.headline_table(RUNS / "studies").splitlines(),
            f"two standard errors with {', '.join(ahead[:-1])} and {ahead[-1]} pictures a category",
            f"far ahead, {reproduce.mean_and_error(lead)} with the plain question, on rare creatures"]  # fmt: skip


def ablated() -> list[str]:
    """What the text says of four arms of the ablation."""
    arms = ablations.recorded_arms(RUNS / "studies" / "ablations", RUNS / "studies" / "few-shot-detection")

    def shown(name: str) -> str:
        arm = ablations.ARMS[name]
        group = arms[arm.method.upper()]
        base, found = group[ablations.BASE], group[f"{arm.method}: {arm.title}"]
        gaps = [each["AP"] - base[seed]["AP"] for seed, each in found.items()]
        return reproduce.mean_and_error(gaps).replace("-", "−")

    return [f"are worse ({shown('rewards-paper')} in AP)", f"all weights ({shown('sft-lora-64')} with a search",
            f"at temperature 1.5 is worse ({shown('temperature-1.5')})",
            f"is worse than SFT of 200 steps ({shown('sft-long')})"]


def estimates() -> list[str]:
    """The table of plans, as notebook 17 computes it."""
    cells = json.loads((ROOT / "nbs" / "17_planning.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(output.get("data", {}).get("text/markdown", [])) for cell in cells
             for output in cell.get("outputs", [])]  # fmt: skip
    return next(text for text in texts if text.startswith("| plan (estimates) |")).splitlines()


CLAIMS: tuple[Callable[[], list[str]], ...] = (
    comparison_table, comparison_text, speed, memory_and_rate, attacked_rewards, shipped_model, museum, headline,
    ablated, estimates,
)  # fmt: skip


@functools.cache
def claims() -> dict[str, list[str]]:
    """Snippets of text computed from the records, by the function that computes them."""
    return {function.__name__: function() for function in CLAIMS}


# ------------------------------------------------------------------------------------------------ README


COUNTED = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+(?=\s?%))(?!\d|\.\d)")
ALLOWED = (  # numbers that are no results
    r"Python 3\.11(?:,| is tested;) 3\.12 (?:or|and) 3\.13",
    r"Apache License 2\.0",
)


def blank(text: str, *patterns: str) -> str:
    """The text, of the same length, with spaces where a pattern matches."""
    for pattern in patterns:
        text = re.sub(pattern, lambda match: " " * len(match[0]), text, flags=re.MULTILINE)
    return text


def absent(text: str, snippets: Iterable[str]) -> list[str]:
    """Snippets that do not occur in the text."""
    return [snippet for snippet in snippets if snippet not in text]


def unproved(text: str, snippets: Iterable[str]) -> list[str]:
    """Decimal numbers, numbers with thousands and percentages of the text that lie in no snippet."""
    spans = [match.span() for snippet in snippets for match in re.finditer(re.escape(snippet), text)]
    found = COUNTED.finditer(blank(text, FENCED, URLS, ARXIV, *ALLOWED))
    return [
        f"{match[0]} in {text[max(0, match.start() - 40) : match.end() + 20]!r}"
        for match in found
        if not any(start <= match.start() and match.end() <= end for start, end in spans)
    ]


def lost_places(text: str) -> list[str]:
    """Embedded pictures that are neither in data/runs nor screenshots of a tool, and links to nothing."""
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text) + re.findall(r"<img[^>]*src=[\"']?([^\"'\s>]+)", text)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?://|#", link)]
    known = RUNS.resolve(), ROOT.resolve() / "docs" / "pictures"
    outside = [name for name in pictures if not any((ROOT / name).resolve().is_relative_to(place) for place in known)]
    return outside + [name for name in pictures + links if not (ROOT / name.split("#")[0]).exists()]


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def snippets() -> list[str]:
    return [snippet for found in claims().values() for snippet in found]


@pytest.mark.parametrize("name", [function.__name__ for function in CLAIMS])
def test_readme_says_what_is_recorded(name: str, readme: str) -> None:
    assert absent(readme, claims()[name]) == []


def test_readme_has_no_number_without_a_record(readme: str, snippets: list[str]) -> None:
    assert unproved(readme, snippets) == []


def test_pictures_and_links_of_readme_exist(readme: str) -> None:
    assert lost_places(readme) == []
    assert re.search(r"!\[[^\]]*\]\(data/runs/", readme), "a picture of a run stands at the top"


def test_a_changed_digit_is_noticed(readme: str, snippets: list[str]) -> None:
    """Every number of README, changed in its last digit, one at a time."""
    fine = set(absent(readme, snippets)), len(unproved(readme, snippets))
    shown = COUNTED.finditer(blank(readme, FENCED, URLS, ARXIV, *ALLOWED))
    ends = [match.end() - 1 for match in shown]
    assert len(ends) > 50
    for end in ends:
        false = f"{readme[:end]}{(int(readme[end]) + 1) % 10}{readme[end + 1 :]}"
        assert set(absent(false, snippets)) - fine[0] or len(unproved(false, snippets)) > fine[1], readme[
            end - 60 : end
        ]


@pytest.mark.parametrize("claim", ["AP 0.999.", "3.1 times", "9.5x", "62%", "on 4,321 rows", "of 0.5, 0.25", "3.11 s"])
def test_a_made_up_number_is_noticed(claim: str, readme: str, snippets: list[str]) -> None:
    assert len(unproved(f"{readme}\nIt reaches {claim}", snippets)) > len(unproved(readme, snippets))


def test_a_lost_place_is_noticed() -> None:
    assert lost_places("![a](docs/a.png)") and lost_places("![a](docs/pictures/gone.webp)")
    assert lost_places("![a](docs/pictures/../a.png)") and lost_places("![a](data/runs/gone.png)")
    assert lost_places('<img src="a">')
    assert lost_places("[a](data/runs/gone)") and not lost_places("[a](data/runs/fuzz) [b](https://b.org) [c](#c)")


# --------------------------------------------------------------------------------------------- notebooks


DECIMAL = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)\.\d+(?:[eE][-+]?\d+)?(?!\d|\.\d)")
LITERAL = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)?\.?\d+(?:[eE][-+]?\d+)?")
EXEMPT = (  # exercises, quotations, formulas, code, links, versions
    r"(?s)^## Exercises$.*?(?=^## |\Z)", r"(?s)^<details>\s*<summary>Solutions?</summary>.*?</details>",
    r"^\*Seen:\*.*https://github\.com/.*$",  # what users report in the threads that are linked
    FENCED, r"(?s)\$\$.*?\$\$", r"``.*?``|`[^`]+`", r"\$[^$\n]+\$", URLS, ARXIV, r"\bQwen[\w.-]+",
    r"\b(?:PyTorch|Python|TRL|[Tt]ransformers|torch) \d+\.\d+",
)  # fmt: skip


def cells(path: Path, kind: str) -> list[dict]:
    """The cells of one kind."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def joined(text: str | list[str]) -> str:
    """Text as notebooks keep it, in one piece."""
    return text if isinstance(text, str) else "".join(text)


def notebook(folder: Path, prose: str, source: str, output: dict) -> Path:
    """A notebook of two cells."""
    path = folder / "20_made_up.ipynb"
    shown = [dict(cell_type="markdown", source=[prose]), dict(cell_type="code", source=source, outputs=[output])]
    path.write_text(json.dumps(dict(cells=shown)), encoding="utf-8")
    return path


def markdown(path: Path) -> list[str]:
    """The text of every Markdown cell."""
    return [joined(cell["source"]) for cell in cells(path, "markdown")]


def code(path: Path) -> str:
    """The code of all cells."""
    return "\n".join(joined(cell["source"]) for cell in cells(path, "code"))


def printed(path: Path) -> str:
    """All that the code cells printed or returned as text."""
    found = []
    for output in (output for cell in cells(path, "code") for output in cell["outputs"]):
        found += [output["text"]] if output.get("name") == "stdout" else []
        found += [text for kind, text in output.get("data", {}).items() if kind in ("text/plain", "text/markdown")]
    return "\n".join(map(joined, found))


def has_image(path: Path) -> bool:
    """Whether a code cell shows a picture."""
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    return any(kind.startswith("image/") for output in outputs for kind in output.get("data", {}))


def has_invented_figure(path: Path) -> bool:
    """Whether a picture is shown where the code opens neither the recorded runs nor a live one."""
    return has_image(path) and not re.search(r"[\"']runs[\"']|\bmkdtemp\(|\bTemporaryDirectory\(", code(path))


def recorded(text: str) -> str:
    """What is recorded in the run folders that a text names."""
    named = [ROOT / name.rstrip("./") for name in re.findall(r"data/runs/[\w./-]+", text)]
    files = [path for folder in named for path in [folder, *folder.rglob("*")] if path.suffix in (".json", ".csv")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())


@functools.cache
def literals(text: str) -> frozenset[Decimal]:
    """All numbers in a text."""
    return frozenset(Decimal(number.replace(",", "")) for number in LITERAL.findall(text))


def is_known(number: str, known: Iterable[Decimal]) -> bool:
    """Whether a number, or a longer one that rounds to it, is among those that are known."""
    value = Decimal(number.replace(",", ""))
    place = value.as_tuple().exponent
    half = Decimal(5).scaleb(place - 1)
    return any(value == one or one.as_tuple().exponent < place and abs(one - value) <= half for one in known)


def untraced(path: Path) -> list[str]:
    """Decimal numbers of the prose that the notebook neither computes nor sets, nor reads from a run that it names."""
    known, found = literals(printed(path)) | literals(code(path)), []
    for text in markdown(path):
        for match in DECIMAL.finditer(blank(text, *EXEMPT)):
            if not is_known(match[0], known) and not is_known(match[0], literals(recorded(text))):
                found.append(f"{match[0]} in {text[max(0, match.start() - 40) : match.end() + 20]!r}")
    return found


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_numbers_of_the_prose_are_computed_or_recorded(path: Path) -> None:
    assert untraced(path) == []


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_figures_come_from_a_run(path: Path) -> None:
    assert not has_invented_figure(path)


@pytest.mark.parametrize(
    ("prose", "is_false"),
    [
        ("The AP is 0.31.", False), ("The AP is 0.312, more than 0.25.", False), ("The AP is 0.3.", False),
        ("Up to 1,234.5 tokens.", False), ("A start (data/runs/tiny-vlm/few-shot) with an AP of 0.0492.", False),
        ("The AP is 0.32.", True), ("The AP is 0.3129.", True), ("An AP of 0.0492, says nobody.", True),
        ("It is 7.25x as fast.", True), ("By 12.5%.", True), ("As $7.25$, `7.25`, [a](7.25/b), TRL 7.25.", False),
        ("## Exercises\n\n1. Is 7.25 odd?\n", False), ("## Exercises\n\n1. Odd?\n\n## Summary\n\nIt is 7.25.", True),
        ("<details>\n<summary>Solutions</summary>\n\n7.25\n\n</details>\n", False), ("*Seen:* 7.25, by us.", True),
    ],
)  # fmt: skip
def test_a_false_number_in_a_notebook_is_noticed(prose: str, is_false: bool, tmp_path: Path) -> None:
    output = dict(output_type="stream", name="stdout", text=["AP 0.31234\n", "at most 1,234.5\n"])
    assert bool(untraced(notebook(tmp_path, prose, "rate = 0.25", output))) == is_false


@pytest.mark.parametrize(
    ("source", "is_false"), [("plot([1, 2])", True), ('read_log(data / "runs")', False), ("mkdtemp()", False)]
)
def test_a_made_up_figure_in_a_notebook_is_noticed(source: str, is_false: bool, tmp_path: Path) -> None:
    output = dict(output_type="display_data", data={"image/png": "iVBORw0KG"})
    assert has_invented_figure(notebook(tmp_path, "A figure:", source, output)) == is_false


# ----------------------------------------------------------------------------------------------- records


BEFORE_COMMITS = {  # begun before the commit was recorded
    "pretraining/1-name", "pretraining/4-talk", "race/qwen2_vl", "race/qwen3_vl",
}  # fmt: skip
MACHINE = re.compile(r"/(?<![\w.]/)(?:work|tmp|root|home)\b.{0,40}")
PICTURE = r"[\w+/=\\]{200,}"  # in base 64
FOLDERS = sorted(path.parent for path in RUNS.rglob("config.json"))


def gaps(folder: Path) -> list[str]:
    """What the record of a run lacks."""
    config = read_json(folder / "config.json")
    env = read_json(folder / "env.json") if (folder / "env.json").is_file() else {}
    lacking = [name for name in ("packages", "processor", "commit") if not env.get(name)]
    if not (isinstance(config.get("command"), str) and config["command"].strip()):
        lacking.append("command")
    return lacking


def has_owner(file: Path) -> bool:
    """Whether a result lies in a run folder, below one, or above those that it sums up."""
    above = [folder for folder in file.parents if folder.is_relative_to(RUNS)]
    return any((folder / "config.json").is_file() for folder in above) or any(file.parent.glob("*/config.json"))


def machine_paths(text: str) -> list[str]:
    """Places on the machine of whoever ran something."""
    return MACHINE.findall(re.sub(PICTURE, "", text)) if MACHINE.search(text) else []


def test_every_run_says_how_it_was_made() -> None:
    found = {folder.relative_to(RUNS).as_posix(): gaps(folder) for folder in FOLDERS}
    assert len(found) > 100
    assert {name: lacking for name, lacking in found.items() if lacking} == dict.fromkeys(BEFORE_COMMITS, ["commit"])


def test_every_result_belongs_to_a_run() -> None:
    results = [path for name in ("summary.json", "metrics.csv", "completions.jsonl") for path in RUNS.rglob(name)]
    assert [path.relative_to(RUNS).as_posix() for path in results if not has_owner(path)] == []


def test_a_record_with_gaps_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"command": " "}', encoding="utf-8")
    assert gaps(tmp_path) == ["packages", "processor", "commit", "command"] and not has_owner(tmp_path / "summary.json")


def test_no_text_names_a_place_on_a_machine() -> None:
    found = {}
    for path in [ROOT / "README.md", *NOTEBOOKS, *(path for path in RUNS.rglob("*") if path.is_file())]:
        if path.suffix not in (".png", ".webp", ".safetensors"):
            found[path.relative_to(ROOT).as_posix()] = machine_paths(path.read_text(encoding="utf-8"))
    assert {name: places for name, places in found.items() if places} == {}


def test_a_place_on_a_machine_is_noticed() -> None:
    assert all(map(machine_paths, ("/tmp/x", 'out="/work/main/a"', "--out=/root", "file:///home/me")))
    assert not any(map(machine_paths, ("data/runs/home", "../tmp/a", "/works", "iVBORw0KG/tmp/" * 20)))
