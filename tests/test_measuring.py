"""A whole detection test: frames, protocols, records."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visual_rft import measuring
from visual_rft.cli import main
from visual_rft.families import limits_of
from visual_rft.measuring import Protocol, measure_detection, questions_of
from visual_rft.protocols import open_truth

SIZES = {1: (640, 360), 2: (333, 500), 3: (97, 1013)}
BOXES = {(1, 1): [64, 36, 320, 180], (2, 1): [30, 50, 100, 210], (2, 2): [10, 300, 200, 120], (3, 2): [9, 100, 70, 505]}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three pictures, two categories, four boxes (x, y, width, height) in pixels."""
    images = [dict(id=i, width=w, height=h, file_name=f"{i}.png") for i, (w, h) in SIZES.items()]
    for image in images:
        Image.new("RGB", (image["width"], image["height"]), "white").save(tmp_path / image["file_name"])
    truths = [dict(id=n, image_id=i, category_id=c, bbox=box, area=box[2] * box[3], iscrowd=0)
              for n, ((i, c), box) in enumerate(BOXES.items(), start=1)]
    names = [dict(id=1, name="cat"), dict(id=2, name="stop sign")]
    (tmp_path / "truth.json").write_text(json.dumps(dict(images=images, annotations=truths, categories=names)))
    return tmp_path


def measure(tiny, coco: Path, protocol: Protocol, name: str = "out", **options) -> dict:
    return measure_detection(*tiny, coco / "truth.json", coco, ["cat", "stop sign"], protocol, coco / name, **options)


@pytest.mark.parametrize("ask", ["all", "present", "map"])
def test_the_truth_in_the_models_own_frame_scores_one(tiny, coco: Path, ask: str, monkeypatch) -> None:
    asked = []

    def honest(model, processor, rows, folder, **options) -> list[str]:
        asked.extend(rows["problem"])
        return rows["solution"]

    monkeypatch.setattr(measuring, "answer_sharded", honest)
    if ask == "map":
        (coco / "map.json").write_text(json.dumps({"1": ["cat"], "2": ["stop sign"], "3": ["cat", "stop sign"]}))
        ask = str(coco / "map.json")
    found = measure(tiny, coco, Protocol(ask=ask))
    results = json.loads((coco / "out" / "results-stated.json").read_text())
    expected = {"all": 4, "present": 4}.get(ask, 3)
    assert len(results) == expected and len(asked) == {"all": 6, "present": 4}.get(ask, 4)
    for result in results:
        unit = 1.5 * max(SIZES[result["image_id"]]) / 100  # frames of the tiny models are coarse: 224 pixels at most
        assert np.abs(np.array(result["bbox"]) - BOXES[result["image_id"], result["category_id"]]).max() <= unit
    assert found["recall_limit"] == expected / 4
    assert set(found) == {"cat", "stop sign", "AP", "recall_limit"}
    assert found["AP"] == pytest.approx((found["cat"] + found["stop sign"]) / 2)
    assert found["AP"] > 0.6 if expected == 4 else found["cat"] < 0.6


def test_counting_again_does_not_ask_again(tiny, coco: Path, monkeypatch) -> None:
    kinds = ("stated", "one", "token")
    first = {score: measure(tiny, coco, Protocol(score=score), max_new_tokens=4) for score in kinds}
    assert first["stated"]["AP"] == 0 and len(list((coco / "out").glob("summary-*.json"))) == 3
    monkeypatch.setattr("visual_rft.evaluation.sample", None)  # answering would fail now
    assert measure(tiny, coco, Protocol(score="one"), max_new_tokens=4) == first["one"]


def test_other_questions_need_another_folder(tiny, coco: Path, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "answer_sharded", lambda model, processor, rows, folder: rows["solution"])
    measure(tiny, coco, Protocol())
    for other in (Protocol(ask="present"), Protocol(thinking=False)):
        with pytest.raises(ValueError, match="holds another run"):
            measure(tiny, coco, other)


def test_the_limit_of_pixels_reaches_the_pictures_and_the_frame(tiny, coco: Path, monkeypatch) -> None:
    before, seen = limits_of(tiny[1]), []

    def honest(model, processor, rows, folder) -> list[str]:
        seen.append(limits_of(processor)["max_pixels"])
        return rows["solution"]

    monkeypatch.setattr(measuring, "answer_sharded", honest)
    few, many = (measure(tiny, coco, Protocol(max_pixels=n), f"{n}") for n in (2048, 0))
    assert seen == [2048, before["max_pixels"]] and limits_of(tiny[1]) == before
    assert 0 <= few["AP"] <= many["AP"] > 0.6  # a coarser frame of the family that counts pixels rounds more
    with pytest.raises(ValueError, match="max_pixels was 2048, now 4096"):
        measure(tiny, coco, Protocol(max_pixels=4096), "2048")


def test_lvis_needs_what_only_lvis_says(tiny, coco: Path, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "answer_sharded", lambda model, processor, rows, folder: rows["solution"])
    with pytest.raises(ValueError, match="not annotations of LVIS"):
        measure(tiny, coco, Protocol(scorer="lvis"))
    content = json.loads((coco / "truth.json").read_text())
    for image in content["images"]:
        image |= dict(neg_category_ids=[], not_exhaustive_category_ids=[])
    (coco / "truth.json").write_text(json.dumps(content))
    found = {scorer: measure(tiny, coco, Protocol(scorer=scorer), scorer)["AP"] for scorer in ("coco", "lvis")}
    assert found["lvis"] == pytest.approx(found["coco"])  # nothing is unchecked or not exhaustive


@pytest.mark.parametrize("wrong", [dict(ask="some"), dict(score="best"), dict(scorer="voc")])
def test_unknown_choices_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"not '{next(iter(wrong.values()))}'"):
        Protocol(**wrong)


def test_a_map_without_a_question_is_refused(coco: Path) -> None:
    (coco / "map.json").write_text(json.dumps({"1": ["zebra"]}))
    with pytest.raises(ValueError, match="no question is left"):
        questions_of(Protocol(ask=str(coco / "map.json")), open_truth(coco / "truth.json"), ["cat"])


def test_the_command_line_measures(coco: Path, tiny_folder: str, capsys) -> None:
    words = ["evaluate", "--model", tiny_folder, "--annotations", str(coco / "truth.json"), "--pictures", str(coco)]
    assert main([*words, "--ask", "present", "--plain-question", "--out", str(coco / "cli")]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"cat", "stop sign", "AP", "recall_limit"}
    config = json.loads((coco / "cli" / "config.json").read_text())
    assert (config["ask"], config["thinking"], config["questions"]) == ("present", False, 4)
    assert main([*words, "--max-pixels", "4096", "--ask", "present", "--out", str(coco / "few")]) == 0
    assert json.loads((coco / "few" / "config.json").read_text())["max_pixels"] == 4096
    assert main([*words, "--scorer", "voc", "--out", str(coco / "cli")]) == 2
    assert "scorer is one of coco, lvis" in capsys.readouterr().err
