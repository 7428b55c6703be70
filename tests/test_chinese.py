"""The Chinese texts say what the English ones say: nothing missing, nothing out of date, every formula in place."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import chinese


@pytest.mark.parametrize("name", ["README", *chinese.MAIN])
def test_a_translation_is_in_step(name: str) -> None:
    assert chinese.faults(name) == []


def test_the_main_path_is_whole() -> None:
    assert [name[:2] for name in chinese.MAIN] == [f"{number:02}" for number in range(16)]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workbook of one notebook with two pieces of prose, translated."""
    texts = {"a": "## The mean\n\nThe mean $m$ of `x` is a number that you know, as [this](x.md) says at length.",
             "b": "A second piece of prose, long enough to be one that has to be translated into Chinese."}
    cells = [dict(cell_type="markdown", id=place, source=[text]) for place, text in texts.items()]
    cells.insert(1, dict(cell_type="code", id="c", source=["x = 1"], outputs=["kept"]))
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "00_small.ipynb").write_text(json.dumps(dict(cells=cells)))
    (tmp_path / "docs" / "zh").mkdir(parents=True)
    said = {"a": "## 平均值\n\n`x` 的平均值 $m$ 是一个你认识的数，见[这里](x.md)。", "b": "第二段文字。"}
    lines = [f"<!-- {place} {chinese.digest(texts[place])} -->\n{text}\n" for place, text in said.items()]
    (tmp_path / "docs" / "zh" / "00_small.md").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(chinese, "ROOT", tmp_path)
    monkeypatch.setattr(chinese, "CHINESE", tmp_path / "docs" / "zh")
    return tmp_path / "docs" / "zh" / "00_small.md"


def test_prose_is_replaced_and_code_is_not(small: Path) -> None:
    assert chinese.faults("00_small") == [] and chinese.todo("00_small") == ""
    cells = chinese.notebook("00_small")["cells"]
    assert [cell["source"][0][:4] for cell in cells] == ["## 平", "x = ", "第二段文"]
    assert cells[1]["outputs"] == ["kept"]


@pytest.mark.parametrize(("old", "new", "fault"), [
    ("$m$", "$n$", "a: other formulas"), ("`x`", "x", "a: other code"), ("(x.md)", "(y.md)", "a: other links"),
    ("## 平", "平", "a: other headings"), ("第二段文字。", "A second piece.", "b: not Chinese"),
    ("<!-- b", "<!-- z", "b: not translated"),
    ("<!-- a ", "<!-- a 12345678 -->\n\n<!-- z ", "a: the English has changed"),
    ("第二段文字。", "- 第二段文字。", "b: other items"),
])
def test_what_is_wrong_is_named(small: Path, old: str, new: str, fault: str) -> None:
    small.write_text(small.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert f"00_small {fault}" in chinese.faults("00_small")


def test_a_changed_sentence_is_noticed(small: Path) -> None:
    path = chinese.ROOT / "nbs" / "00_small.ipynb"
    path.write_text(path.read_text().replace("second piece", "third piece"))
    assert chinese.faults("00_small") == ["00_small b: the English has changed"]
    assert chinese.todo("00_small").splitlines()[1].startswith("A third piece")


def test_a_piece_that_is_code_alone_needs_no_chinese(small: Path) -> None:
    code = "```sh\nmake run    # the study: score the start, fine-tune in both ways, score both again\n```"
    (chinese.ROOT / "README.md").write_text(code)
    (small.parent / "README.md").write_text(f"<!-- p{chinese.digest(code)} {chinese.digest(code)} -->\n{code}\n")
    assert chinese.faults("README") == []


def test_code_between_fences_is_one_paragraph() -> None:
    assert chinese.paragraphs("a\nb\n\n```\nx\n\ny\n```\n\nc") == ["a\nb", "```\nx\n\ny\n```", "c"]
