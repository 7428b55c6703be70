"""Every mistake that the checks know is found, a clean set has none, and nothing makes them raise."""

import io
import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visual_rft import data, models, prompts, sources
from visual_rft.checks import LEVELS, check_rows, findings_table
from visual_rft.cli import main

PICTURE = Image.new("RGB", (300, 200), "red")


BOX = (100, 100, 900, 700)


def detection(name: str = "cat", boxes: tuple = (BOX,), image: object = PICTURE, **change: object) -> dict:
    return data.detection_row(image, name, boxes) | change


CLEAN = [detection(), detection("dog"), detection("bird", ()), detection("cow", ())]


def checks(*rows: object, **options: object) -> set[tuple[str, str]]:
    return {(finding.level, finding.check) for finding in check_rows([*CLEAN, *rows], **options)}


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def turned() -> dict:
    exif = Image.Exif()
    exif[274] = 3
    return encoded(PICTURE, "JPEG", exif=exif)


def boxed(text: str) -> dict:
    return detection("cup", solution=f"<answer>[{{'Position': {text}, 'Confidence': 1}}]</answer>")


def test_a_clean_set_has_no_findings() -> None:
    assert check_rows(CLEAN) == [] == check_rows(data.dataset(CLEAN)) and findings_table([]) == "Nothing found."
    opaque = [row | {"image": encoded(Image.new("RGBA", (300, 200), (9, 9, 9, 255)))} for row in CLEAN]
    assert check_rows(opaque) == []  # as in the published sets


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (detection("cup", image=Image.new("RGB", (20, 200))), ("warning", "picture size")),
        (detection("cup", image=Image.new("RGB", (6000, 29))), ("error", "picture size")),
        (detection("cup", image=Image.new("RGB", (700, 700))), ("note", "picture size")),
        (detection("cup", ()) | {"image": {"bytes": b"<html>"}}, ("error", "picture")),
        (detection("cup", ()) | {"image": encoded(Image.new("RGBA", (300, 200)))}, ("warning", "transparency")),
        (detection("cup", ()) | {"image": turned()}, ("warning", "orientation")),
        (boxed("[900, 100, 100, 700]"), ("error", "boxes")),
        (boxed("[-5, 100, 100, 700]"), ("error", "boxes")),
        (boxed("[5, 100, 100, 1200]"), ("error", "units")),
        (boxed("[0.1, 0.2, 0.5, 1]"), ("error", "units")),
        (boxed("[0, 0, 1000, 990]"), ("note", "whole picture")),
        (detection("cup", solution="<answer>nothing</answer>"), ("error", "solution")),
        (detection("cup", solution="a cup"), ("error", "solution")),
        (detection("cup", solution="<answer>no objects</answer>"), ("warning", "solution")),
        (detection("cup", task="sudoku"), ("error", "columns")),
        (detection("cup", problem=" "), ("error", "columns")),
        ({"image": None}, ("error", "columns")),
        (None, ("error", "columns")),
        (detection("cup", problem="Where are the cups?"), ("warning", "question")),
        (detection("cup", problem=prompts.detection_prompt("cup") + prompts.detection_answer([BOX])),
         ("warning", "leak")),
        (CLEAN[0], ("warning", "repeated")),
        (detection(boxes=[[1, 1, 99, 99]]), ("error", "contradiction")),
        (detection("Cat", ()), ("warning", "spelling")),
        (data.detection_row(PICTURE, "cup", [], thinking=False), ("warning", "thinking")),
        (data.classification_row(PICTURE, "cup"), ("note", "tasks")),
    ],
)  # fmt: skip
def test_a_mistake_is_found(row: object, expected: tuple[str, str]) -> None:
    assert expected in checks(row)
    levels = [LEVELS.index(finding.level) for finding in check_rows([row, *CLEAN, row])]
    assert levels == sorted(levels)


def test_rows_are_counted_from_one() -> None:
    found = check_rows([*CLEAN, boxed("[5, 100, 100, 1200]"), CLEAN[1]])
    assert [(finding.row, finding.check) for finding in found] == [(5, "units"), (6, "repeated")]
    assert "row 2" in found[1].text


def test_the_set_as_a_whole() -> None:
    assert [f.check for f in check_rows(CLEAN[:2])] == ["negatives"]
    small = [detection(boxes=[[10, 10 + i, 200, 150]]) | {"image": encoded(Image.new("RGB", (300, 200), (i, 0, 0)))}
             for i in range(10)]  # fmt: skip
    assert [f.check for f in check_rows([*small, CLEAN[2]])] == ["units"]
    assert [f.check for f in check_rows([*small[:9], CLEAN[2]])] == []
    assert [f.check for f in check_rows([*small[:9], detection(), CLEAN[2]])] == []
    named = [data.classification_row(Image.new("RGB", (99, 99), (i, j, 0)), name)
             for i, name in enumerate(("737", "737-200", "Airbus")) for j in range(4)]  # fmt: skip
    assert [f.check for f in check_rows(named)] == ["substring"]
    assert not {"balance"} & {f.check for f in check_rows(named[:11])}
    assert [f.text[:8] for f in check_rows(named[:9]) if f.check == "balance"] == ["'Airbus'"]
    plain = [data.classification_row(PICTURE, "cat", thinking=False)]
    assert [(f.level, f.check) for f in check_rows(plain)] == [("note", "thinking")]
    assert [(f.level, f.check) for f in check_rows([])] == [("error", "columns")]


def test_a_published_set_is_compared_with_what_it_should_be() -> None:
    coco, pets = sources.PUBLISHED[0], sources.PUBLISHED[-1]
    assert checks(source=coco) == set()
    texts = [finding.text for finding in check_rows(CLEAN, source=pets)]
    assert texts == [f"4 rows; {pets.name} has 148", f"not a row of classification, as {pets.name} is"]


def test_broken_pictures_in_a_table_are_found() -> None:
    row = detection() | {"image": {"bytes": b"\x89PNG", "path": None}}
    table = datasets.Dataset.from_list([*CLEAN, row], features=data.FEATURES)
    assert [(f.row, f.check) for f in check_rows(table) if f.level == "error"] == [(5, "picture")]


def test_the_table_has_a_line_for_each_kind() -> None:
    lines = findings_table(check_rows([*CLEAN, *[boxed(f"[5, 100, 100, {1200 + i}]") for i in range(3)]])).splitlines()
    assert lines[2].startswith("| error | units | 3 | row 5: (5, 100, 100, 1200) goes beyond 1000")
    odd = findings_table(check_rows([detection("a|b\nc"), detection("A|b\nc", ())]))
    assert all(line.count("|") - line.count("\\|") == 5 for line in odd.splitlines())


VALUES = st.none() | st.integers() | st.floats() | st.booleans() | st.text(max_size=30) | st.binary(max_size=30)
KEPT = [row[name] for row in CLEAN for name in ("problem", "solution", "task")]
TEXTS = st.sampled_from([*KEPT, "<answer>x</answer>"])
COLUMNS = ["image", "problem", "solution", "task", "category"]
ROWS = VALUES | st.dictionaries(
    st.sampled_from(COLUMNS) | st.text(max_size=3), VALUES | TEXTS | st.lists(VALUES, max_size=2)
    | st.dictionaries(st.sampled_from(["bytes", "path"]), VALUES), max_size=6)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.lists(ROWS, max_size=5))
def test_nothing_raises(rows: list) -> None:
    findings = check_rows(rows)
    assert all(finding.level in LEVELS for finding in findings) and isinstance(findings_table(findings), str)


def test_the_command_line_checks_a_file(tmp_path: Path, capsys) -> None:
    Image.new("RGB", (2000, 2000)).save(tmp_path / "big.png")
    solution = "<answer>[{'Position': [10, 10, 1500, 90]}]</answer>"
    row = dict(image="big.png", problem="Find every cat in the image.", solution=solution)
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["check", str(tmp_path / "rows.jsonl")]) == 1  # an error is among the findings
    said = capsys.readouterr().out
    assert said.startswith("1 row\n") and "|---|" in said and "1500" in said
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | dict(solution=solution.replace("1500", "900"))) + "\n")
    assert main(["check", str(tmp_path / "rows.jsonl")]) == 0 and "warning" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "no.jsonl")]) == 2


def test_training_refuses_what_no_reward_can_read_and_warns_of_what_is_odd(tmp_path: Path, capsys) -> None:
    """Swapped corners end it before the first step, pixels are named and trained on, a clean file passes in silence."""
    PICTURE.save(tmp_path / "picture.png")
    good = dict(image="picture.png", problem=prompts.detection_prompt("cat"),
                solution=prompts.completion(prompts.detection_answer([BOX])))
    for name, box in (("clean", BOX), ("pixels", (10, 10, 1200, 700)), ("swapped", (900, 100, 100, 700))):
        odd = good | dict(solution=good["solution"].replace(str(list(BOX)), str(list(box))))
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in (good, odd)), encoding="utf-8")
        train = ["grpo", "--data", str(path), "--out", str(tmp_path / name), "--steps", "1", "--prompts", "1",
                 "--group", "2", "--max-completion-length", "4"]
        assert main(train) == (2 if name == "swapped" else 0)
        said = capsys.readouterr().err
        assert ("warning: " + str(path) + ", row 2" in said) == (name != "clean")
        assert ("error: row 2: not a detection solution" in said) == (name == "swapped")
        assert (tmp_path / name / "metrics.csv").is_file() == (name != "swapped")
    assert main(["evaluate", "--data", str(path)]) == 0 and "corners swapped in (900" in capsys.readouterr().err


def test_settings_that_cannot_be_are_one_line(tmp_path: Path, capsys) -> None:
    """No step at all, or rewards that nobody knows, end with code 2 and say what was expected."""
    with pytest.raises(SystemExit, match="2"):
        main(["grpo", "--steps", "0", "--out", str(tmp_path / "none")])
    assert "expected a whole number of at least 1, not 0" in capsys.readouterr().err
    assert main(["grpo", "--rewards", "foo", "--steps", "1", "--out", str(tmp_path / "foo")]) == 2
    assert "unknown rewards 'foo'; expected one of robust, paper, released" in capsys.readouterr().err
    assert main(["sft", "--dtype", "foo", "--steps", "1", "--out", str(tmp_path / "foo")]) == 2
    assert "unknown dtype" in capsys.readouterr().err  # and not that the folder holds another run
    for option in ("--learning-rate", "--temperature"):
        with pytest.raises(SystemExit, match="2"):
            main(["grpo", option, "-1", "--out", str(tmp_path / "none")])
        assert "expected a number above 0, not -1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", "foo"])
    said = capsys.readouterr().err
    assert all(name in said for name in ("few-shot-detection", "ablations", "probes"))
    assert not (tmp_path / "none").exists()


def test_rows_of_ones_own_are_recorded_as_such_and_an_error_leaves_the_bar_closed(tmp_path: Path, capsys) -> None:
    PICTURE.save(tmp_path / "picture.png")
    row = dict(image="picture.png", problem=prompts.detection_prompt("cat"),
               solution=prompts.completion(prompts.detection_answer([BOX])))
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    train = ["grpo", "--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "run"), "--steps", "1",
             "--prompts", "1", "--group", "2", "--max-completion-length", "4"]
    assert main([*train, "--loss", "foo"]) == 2
    assert "\nvisual-rft: error: Unknown loss type: foo" in capsys.readouterr().err  # on a line of its own
    assert main(train) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"] == str(tmp_path / "rows.jsonl") and not {"study", "shots"} & set(config)


def test_a_model_that_the_hub_does_not_give_is_one_line(monkeypatch) -> None:
    def refuse(name: str) -> None:
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(models.AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(FileNotFoundError) as error:
        models.load("foo/bar")
    assert str(error.value) == "foo/bar: neither a folder here nor fetched from the hub: We couldn't connect to the hub"


def test_a_finished_training_says_so_and_a_mistyped_start_leaves_no_trace(tmp_path: Path, capsys) -> None:
    train = ["sft", "--steps", "1", "--batch", "1", "--out", str(tmp_path / "run")]
    assert main([*train, "--model", "nowhere/at/all"]) == 2
    assert "model not found: nowhere/at/all is no folder" in capsys.readouterr().err
    assert main(train) == 0 and capsys.readouterr().out.startswith("trained: ")
    assert main(train) == 0 and capsys.readouterr().out.startswith("trained before, nothing was left to do: ")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["model"], config["study"], config["shots"]) == ("tiny-vlm", "few-shot-detection", 4)
    assert "data" not in config
    assert main(["evaluate", "--model", str(tmp_path / "run")]) == 2
    assert f"the model of this run is {tmp_path / 'run' / 'model'}" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "run"), "cats"]) == 2
    assert "as OWNER/NAME, such as somebody/cats, not 'cats'" in capsys.readouterr().err


def test_quick_and_whole_studies_have_folders_of_their_own(monkeypatch) -> None:
    folders = []
    monkeypatch.setattr("visual_rft.experiments.compare", lambda settings, folder, command: folders.append(folder))
    for words in ([], ["--quick"], ["--quick", "--out", "mine"]):
        assert main(["compare", *words]) == 0
    assert folders == ["runs/compare", "runs/quick", "mine"]
