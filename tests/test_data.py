"""Rows, scenes, benchmarks: exact boxes, honest splits, clear errors."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessor

from visual_rft import data, miniature, pretraining, prompts
from visual_rft.evaluation import score_detection, score_rows
from visual_rft.miniature import BASE, FEW_SHOT, NOVEL, all_sprites, asset_path

ASSETS = asset_path()


def test_the_same_seed_draws_the_same_scene_everywhere() -> None:
    groups = miniature.sprites_by_label(miniature.find_sprites("bank3d", "base"))
    digest = hashlib.sha256("".join(miniature.random_scene(s, groups).digest() for s in range(25)).encode()).hexdigest()
    assert digest == (Path(__file__).parent / "scenes.sha256").read_text().split()[0]


@pytest.mark.parametrize("name", miniature.BENCHMARKS)
def test_benchmarks_are_frozen(name: str) -> None:
    digests = json.loads((ASSETS / "benchmarks.json").read_text(encoding="utf-8"))
    rows = miniature.benchmark(name).select_columns(["image", "problem", "solution"])
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.asarray(row["image"]).tobytes() + row["problem"].encode() + row["solution"].encode())
    assert digest.hexdigest() == digests[name]


def test_boxes_are_tight() -> None:
    sprites = miniature.find_sprites("bank3d", labels=["soccer ball"])
    scene = miniature.draw_scene(4, [sprites])
    ((_, (x1, y1, x2, y2)),) = scene.objects
    plain = miniature.background(np.random.RandomState(4)).astype(int)
    rows, columns = np.nonzero(np.abs(scene.pixels.astype(int) - plain).max(-1) > 0)
    assert abs(columns.min() - x1) <= 1 and abs(columns.max() + 1 - x2) <= 1
    assert abs(rows.min() - y1) <= 1 and abs(rows.max() + 1 - y2) <= 1


def test_objects_overlap_little_and_stay_inside() -> None:
    groups = miniature.sprites_by_label(miniature.find_sprites("bank3d", "base"))
    for seed in range(100):
        scene = miniature.random_scene(seed, groups)
        assert 1 <= len(scene.objects) <= 5
        for i, (_, a) in enumerate(scene.objects):
            assert 0 <= a[0] < a[2] <= 112 and 0 <= a[1] < a[3] <= 112
            assert all(miniature._shared(a, b) <= 0.15 for _, b in scene.objects[:i])


def test_no_test_picture_is_ever_trained_on() -> None:
    trained = {s for groups in pretraining.single_sprites() for sprites in groups.values() for s in sprites}
    trained |= {s for sprites in pretraining.scene_sprites().values() for s in sprites}
    assert {s.split for s in trained} == {"train"}
    boxed = {label for label in pretraining.scene_sprites()}
    assert boxed == set(BASE) and not boxed & set(NOVEL) and set(FEW_SHOT) <= set(NOVEL)
    held_out = {s.file for s in all_sprites() if s.split != "train"}
    assert not held_out & {s.file for s in trained}


def test_every_sprite_is_credited_and_unchanged() -> None:
    with (ASSETS / "manifest.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    files = {
        p.relative_to(ASSETS).as_posix()
        for bank in ("bank3d", "bank_emoji", "bank_creatures")
        for p in (ASSETS / bank).iterdir()
    }
    assert {row["file"] for row in rows} == files
    credits = (ASSETS / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for row in rows:
        assert hashlib.sha256((ASSETS / row["file"]).read_bytes()).hexdigest() == row["sha256"], row["file"]
        assert (ASSETS / "LICENSES" / f"{row['licence']}.txt").stat().st_size > 1000
        assert row["author"] in credits and row["package"] and row["version"]


def test_pixel_patches_equal_the_processor() -> None:
    random = np.random.default_rng(0)
    for side in (48, 64, 112):
        pictures = random.integers(0, 256, (3, side, side, 3), np.uint8)
        size = {"shortest_edge": 32 * 32, "longest_edge": 224 * 224}
        processor = Qwen2VLImageProcessor(size=size, patch_size=8, merge_size=2)
        expected = processor([Image.fromarray(p) for p in pictures], return_tensors="pt")
        values, grid = pretraining.pixel_patches(pictures)
        assert (expected["pixel_values"] - values).abs().max() < 1e-5 and (expected["image_grid_thw"] == grid).all()


# ---------------------------------------------------------------------------------------------------- rows of one's own


@pytest.fixture
def good(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    row = dict(
        image="a.png",
        problem=prompts.detection_prompt("cat"),
        solution=prompts.completion("No Objects"),
        category="cat",
    )
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


def change(path: Path, **columns: object) -> Path:
    row = json.loads(path.read_text(encoding="utf-8")) | columns
    path.write_text(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n", encoding="utf-8")
    return path


def test_rows_of_ones_own_load(good: Path, tmp_path: Path) -> None:
    rows = data.load_rows(good)
    assert rows[0]["task"] == "detection" and rows[0]["image"].size == (40, 30)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    for path in (tmp_path / "rows.parquet", tmp_path / "saved"):
        again = data.load_rows(path)
        assert again[0]["solution"] == rows[0]["solution"] and again[0]["image"].size == (40, 30)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (dict(image="gone.png"), ["rows.jsonl, row 1", "gone.png", "not found"]),
        (dict(problem=None), ["row 1", "'problem'", "solution"]),
        (dict(image=None), ["row 1", "'image'"]),
        (dict(solution=3), ["row 1", "'solution'", "text"]),
        (dict(task="sudoku"), ["row 1", "sudoku", "detection"]),
        (dict(image=7), ["row 1", "'image'", "path"]),
    ],
)
def test_bad_rows_are_named(good: Path, columns: dict, words: list[str]) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        data.load_rows(change(good, **columns))
    assert all(word in str(caught.value) for word in words)


def test_unreadable_images_empty_sets_and_wrong_files_are_named(good: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"row 1: image cannot be read \(a.png\)"):
        data.load_rows(good)
    good.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="rows.jsonl: the data set is empty"):
        data.load_rows(good)
    good.write_text("{oops\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: not JSON"):
        data.load_rows(good)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.load_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="unknown category 'unicorn'"):
        miniature.few_shot_rows(categories=["unicorn"])
    with pytest.raises(ValueError, match="unknown benchmark 'x'"):
        miniature.benchmark("x")


# ---------------------------------------------------------------------------------------------------- scores


def detection(*cases: tuple[list, list, list]) -> tuple:
    """Rows and completions from (true boxes, predicted boxes, confidences)."""
    image = Image.new("RGB", (32, 32))
    rows = data.dataset(data.detection_row(image, "cat", true) for true, _, _ in cases)
    return rows, [prompts.completion(prompts.detection_answer(found, stated), "x") for _, found, stated in cases]


def test_perfect_answers_score_one_and_silence_zero() -> None:
    box = [[100, 100, 300, 300]]
    perfect = score_detection(*detection((box, box, [0.9]), ([], [], [])))
    assert perfect == pytest.approx(dict(AP=1.0, AP50=1.0, mean_iou=1.0, well_formed=1.0))
    assert score_detection(*detection((box, [], []))) == dict(AP=0.0, AP50=0.0, mean_iou=0.0, well_formed=1.0)


def test_average_precision_by_hand() -> None:
    """One picture right at IoU 0.75 with low confidence, one surely wrong: precision 1/2 up to full recall at 0.5."""
    right, wrong = ([[0, 0, 400, 400]], [[0, 0, 400, 300]], [0.5]), ([], [[0, 0, 100, 100]], [0.9])
    scores = score_detection(*detection(right, wrong))
    assert scores["AP50"] == pytest.approx(0.5, abs=1e-6)
    assert scores["AP"] == pytest.approx(0.5 * 6 / 10, abs=1e-6)  # thresholds 0.50 to 0.75 of ten
    assert scores["mean_iou"] == pytest.approx(0.75)
    surer = score_detection(*detection((*right[:2], [0.95]), wrong))
    assert surer["AP50"] == pytest.approx(1.0)  # the order of confidences decides


def test_scores_of_the_other_tasks() -> None:
    image = Image.new("RGB", (32, 32))
    rows = data.dataset(data.classification_row(image, name) for name in ("hot dog", "cat"))
    answers = [prompts.completion("hot_dog", "x"), prompts.completion("dog", "x")]
    assert score_rows(rows, answers) == dict(accuracy=0.5, well_formed=1.0)
    rows = data.dataset([data.grounding_row(image, "the cat.", "cat", [0, 0, 400, 400])])
    assert score_rows(rows, [prompts.completion("(0,0),(400,300)", "x")])["mean_iou"] == pytest.approx(0.75)
    mixed = data.dataset([data.classification_row(image, "cat"), data.detection_row(image, "cat", [])])
    with pytest.raises(ValueError, match="one task"):
        score_rows(mixed, ["", ""])
