"""Protocols: the scorers agree with pycocotools by hand and with plain programs, files survive the round trip."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor
from two_answerers import OPTIONS

from visual_rft import miniature, models, prompts
from visual_rft.boxes import from_resized, iou, resized_size
from visual_rft.evaluation import answer_rows, read_completions
from visual_rft.protocols import (
    PIXELS,
    answer_probabilities,
    answer_shard,
    answer_sharded,
    ask_all,
    ask_listed,
    ask_present,
    category_ids,
    coco_ap,
    coco_results,
    cumulative_mask_iou,
    judged_results,
    lvis_ap,
    mask_iou,
    masks_from_boxes,
    mean_mask_iou,
    merge_shards,
    naming_scores,
    open_truth,
    polygon_mask,
    question_rows,
    recall_limit,
    shape_masks,
    token_probability,
)
from visual_rft.records import read_json, write_json
from visual_rft.rollouts import Sampling, encode_prompts, sample

NAMES = ["cup", "fire hydrant", "die"]
IDS = {"cup": 3, "fire hydrant": 11, "die": 40}
THRESHOLDS = np.linspace(0.5, 0.95, 10)
EVERY_SIZE = [(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)]


# ------------------------------------------------------------------------------------- a made-up data set


def random_box(random: np.random.RandomState) -> list[float]:
    """x, y, width, height in a picture of 640 by 480; small, medium and large ones."""
    side = random.choice([20, 70, 200])
    w, h = random.randint(side // 2, side, 2)
    return [float(v) for v in (random.randint(0, 640 - w), random.randint(0, 480 - h), w, h)]


def made_up(seed: int, pictures: int = 14) -> tuple[dict, list[dict]]:
    """Annotations of LVIS and predictions: some tight, some loose, some invented."""
    random, annotations, results = np.random.RandomState(seed), [], []
    images = [dict(id=100 + i, width=640, height=480, file_name=f"{i}.jpg") for i in range(pictures)]
    for image in images:
        for number in IDS.values():
            for _ in range(random.choice([0, 0, 1, 2])):
                x, y, w, h = random_box(random)
                annotations.append(dict(id=len(annotations) + 1, image_id=image["id"], category_id=number,
                                        bbox=[x, y, w, h], area=w * h * random.uniform(0.5, 1)))  # fmt: skip
                if random.rand() < 0.8:
                    moved = [x + random.randint(-8, 9) * w / 80, y, w * random.uniform(0.8, 1.2), h]
                    results.append(dict(image_id=image["id"], category_id=number, bbox=moved, score=random.rand()))
            if random.rand() < 0.5:
                invented = random_box(random)
                results.append(dict(image_id=image["id"], category_id=number, bbox=invented, score=random.rand()))
        shown = {a["category_id"] for a in annotations if a["image_id"] == image["id"]}
        image["neg_category_ids"] = [n for n in IDS.values() if n not in shown and random.rand() < 0.5]
        image["not_exhaustive_category_ids"] = [n for n in IDS.values() if random.rand() < 0.3]
    categories = [dict(id=number, name=name) for name, number in IDS.items()]
    return dict(images=images, categories=categories, annotations=annotations), results


@pytest.fixture(params=range(4))
def case(request, tmp_path) -> tuple[dict, list[dict], COCO]:
    content, results = made_up(request.param)
    write_json(tmp_path / "truth.json", content)
    return content, results, open_truth(tmp_path / "truth.json")


# ---------------------------------------------------------------- a slow scorer that shares nothing with pycocotools


def corners(bbox: list[float]) -> list[float]:
    x, y, w, h = bbox
    return [x, y, x + w, y + h]


def judged(
    true: list[dict], found: list[dict], threshold: float, low: float, high: float, exhaustive: bool
) -> list[tuple[float, bool]]:
    """(score, hit) of each box of a picture that counts."""
    inside = [low <= t["area"] <= high for t in true]
    order = sorted(range(len(true)), key=lambda i: not inside[i])  # those that count first
    free, scored = set(order), []
    for box in sorted(found, key=lambda r: -r["score"]):
        overlaps = {i: iou([corners(box["bbox"])], [corners(true[i]["bbox"])])[0, 0] for i in order if i in free}
        good = {i: o for i, o in overlaps.items() if o >= threshold}
        counting = {i: o for i, o in good.items() if inside[i]} or good
        if counting:
            best = max(counting, key=counting.get)
            free.remove(best)
            if inside[best]:
                scored.append((box["score"], True))
        elif exhaustive and low <= box["bbox"][2] * box["bbox"][3] <= high:
            scored.append((box["score"], False))
    return scored


def precision_101(scored: list[tuple], truths: int) -> list[float]:
    """The best precision at 101 recalls."""
    hits = np.cumsum([hit for _, hit in sorted(scored, key=lambda pair: -pair[0])])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / truths
    return [max(precision[recall >= level], default=0.0) for level in np.linspace(0, 1, 101)]


def plain_ap(content: dict, results: list[dict], number: int, federated: bool, ranges: list[tuple]) -> float:
    """AP of a category by definition, over thresholds, recalls and those size ranges that have true boxes."""
    values = []
    for low, high in ranges:
        for threshold in THRESHOLDS:
            scored, truths = [], 0
            for image in content["images"]:
                true = [a for a in content["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], number)]
                found = [r for r in results if (r["image_id"], r["category_id"]) == (image["id"], number)]
                truths += sum(low <= t["area"] <= high for t in true)
                if federated and not true and number not in image["neg_category_ids"]:
                    continue
                exhaustive = not federated or number not in image["not_exhaustive_category_ids"]
                scored += judged(true, found, threshold, low, high, exhaustive)
            values += precision_101(scored, truths) if truths else []
    return float(np.mean(values))


# --------------------------------------------------------------------------------------------------- AP


def test_coco_ap_is_that_of_pycocotools(case, tmp_path) -> None:
    content, results, truth = case
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    write_json(tmp_path / "by-hand.json", content)
    write_json(tmp_path / "results.json", results)
    with contextlib.redirect_stdout(io.StringIO()):
        by_hand = COCO(str(tmp_path / "by-hand.json"))
        scorer = COCOeval(by_hand, by_hand.loadRes(str(tmp_path / "results.json")), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    found = coco_ap(truth, read_json(tmp_path / "results.json"), NAMES)
    for place, name in enumerate(NAMES):  # the ids rise in the order of NAMES
        assert found[name] == pytest.approx(scorer.eval["precision"][:, :, place, 0, -1].mean(), abs=1e-12)
    assert found["mean"] == pytest.approx(scorer.stats[0], abs=1e-12)
    assert 0.05 < found["mean"] < 0.95


def test_coco_ap_is_that_of_a_plain_program(case) -> None:
    content, results, truth = case
    found = coco_ap(truth, results, NAMES)
    for name in NAMES:
        assert found[name] == pytest.approx(plain_ap(content, results, IDS[name], False, EVERY_SIZE[:1]), abs=1e-9)


def test_lvis_ap_is_that_of_a_plain_program(case) -> None:
    content, results, truth = case
    standard, published = lvis_ap(truth, results, NAMES), lvis_ap(truth, results, NAMES, areas="all-ranges")
    for name in NAMES:
        assert standard[name] == pytest.approx(plain_ap(content, results, IDS[name], True, EVERY_SIZE[:1]), abs=1e-9)
        assert published[name] == pytest.approx(plain_ap(content, results, IDS[name], True, EVERY_SIZE), abs=1e-9)
    assert standard["mean"] == pytest.approx(np.mean([standard[name] for name in NAMES]))
    assert standard["mean"] > coco_ap(truth, results, NAMES)["mean"] and standard != published


def test_a_category_alone_and_a_part_of_the_pictures(case) -> None:
    content, results, truth = case
    assert coco_ap(truth, results, ["die"])["die"] == coco_ap(truth, results, NAMES)["die"]
    some = {image["id"] for image in content["images"][:7]}
    part = dict(content, images=content["images"][:7])
    part["annotations"] = [a for a in content["annotations"] if a["image_id"] in some]
    kept = [r for r in results if r["image_id"] in some]
    for federated, scorer in ((False, coco_ap), (True, lvis_ap)):
        expected = plain_ap(part, kept, IDS["cup"], federated, EVERY_SIZE[:1])
        assert scorer(truth, results, ["cup"], images=some)["cup"] == pytest.approx(expected, abs=1e-9)


def test_scoring_changes_neither_truth_nor_results(case) -> None:
    content, results, truth = case
    before = json.dumps([truth.dataset, results])
    coco_ap(truth, results, NAMES)
    lvis_ap(truth, results, NAMES)
    assert json.dumps([truth.dataset, results]) == before


def test_crowds_are_ignored_by_coco(tmp_path) -> None:
    images, categories = [dict(id=i, width=100, height=100) for i in (1, 2)], [dict(id=1, name="cup")]
    single = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 10, 10], area=100)
    crowd = dict(id=2, image_id=1, category_id=1, bbox=[50, 50, 40, 40], area=1600, iscrowd=1)
    annotations = [single, crowd, crowd | dict(id=3, image_id=2)]
    write_json(tmp_path / "crowd.json", dict(images=images, categories=categories, annotations=annotations))
    truth, place = open_truth(tmp_path / "crowd.json"), dict(image_id=1, category_id=1)
    results = [place | dict(bbox=[55, 55, 10, 10], score=0.9), place | dict(bbox=[0, 0, 10, 10], score=0.5)]
    assert coco_ap(truth, results, ["cup"])["cup"] == pytest.approx(1)
    assert recall_limit(truth, [(1, "cup")], ["cup"]) == 1


def test_300_boxes_a_picture_over_all_categories(case) -> None:
    content, _, truth = case
    image = next(i for i in content["images"] if any(a["image_id"] == i["id"] and a["category_id"] == 3
                                                     for a in content["annotations"]))  # fmt: skip
    place = dict(image_id=image["id"], bbox=[1, 1, 9, 9])
    sure = [place | dict(category_id=11, score=0.9)] * 299
    cups = [place | dict(category_id=3, score=0.1), place | dict(category_id=3, score=0.2)]
    kept = [r["score"] for r in judged_results(truth, cups + sure) if r["category_id"] == 3]
    assert kept == [0.2]


def test_a_category_without_boxes_has_no_ap(case) -> None:
    content, results, truth = case
    without = [a for a in content["annotations"] if a["category_id"] != 40]
    truth.dataset["annotations"] = without
    for scorer in (coco_ap, lvis_ap):
        found = scorer(truth, results, NAMES)
        assert math.isnan(found["die"]) and found["mean"] == pytest.approx((found["cup"] + found["fire hydrant"]) / 2)
        assert scorer(truth, [], ["cup"]) == dict(cup=0, mean=0)
        assert math.isnan(scorer(truth, results, ["die"])["mean"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(image_id=1), "result 0: image 1"),
        (dict(category_id=99), "category 99"),
        (dict(bbox=[1, 2, 3]), "four finite numbers"),
        (dict(bbox=7), "four finite numbers"),
        (dict(bbox=[1, 2, math.inf, 4]), "four finite numbers"),
        (dict(bbox=[1, 2, -3, 4]), "width and height from 0 on"),
        (dict(score="0.9"), "finite score"),
    ],
)
def test_results_that_nobody_can_score(case, change, message) -> None:
    _, results, truth = case
    with pytest.raises(ValueError, match=message):
        coco_ap(truth, [results[0] | change], NAMES)
    with pytest.raises(ValueError, match=message):
        lvis_ap(truth, [results[0] | change], NAMES)


def test_bad_arguments_of_the_scorers(case) -> None:
    _, results, truth = case
    with pytest.raises(ValueError, match="expected an object"):
        coco_ap(truth, ["box"], NAMES)
    with pytest.raises(ValueError, match="unknown category 'mug'"):
        coco_ap(truth, results, ["mug"])
    with pytest.raises(ValueError, match="not 'small'"):
        lvis_ap(truth, results, NAMES, areas="small")
    with pytest.raises(ValueError, match="picture 5 "):
        coco_ap(truth, results, NAMES, images=[5])
    with pytest.raises(ValueError, match="no pictures"):
        coco_ap(truth, results, NAMES, images=[])
    del truth.dataset["images"][3]["neg_category_ids"]
    with pytest.raises(ValueError, match="picture 103 .* not annotations of LVIS"):
        lvis_ap(truth, results, NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "expected an object"),
        ("{", "not JSON"),
        ('{"images": []}', "list under 'categories'"),
        ('{"images": [], "categories": [], "annotations": [{"id": 1}]}', "entry 1 of 'annotations' has no 'image_id'"),
        ('{"images": [{"id": 1, "width": 2}], "categories": [], "annotations": []}', "has no 'height'"),
        ('{"images": [], "categories": [], "annotations": [{"id": 0, "image_id": 1, "category_id": 1, "bbox": [], '
         '"area": 1}]}', "has the id 0"),
    ],
)  # fmt: skip
def test_annotation_files_that_are_none(tmp_path, content, message) -> None:
    (tmp_path / "bad.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        open_truth(tmp_path / "bad.json")
    assert "bad.json" in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------- questions and results


def test_questions(case) -> None:
    content, _, truth = case
    present = ask_present(truth, NAMES)
    names = {number: name for name, number in IDS.items()}
    assert set(present) == {(a["image_id"], names[a["category_id"]]) for a in content["annotations"]}
    assert len(present) == len(set(present)) and set(present) <= set(ask_all(truth.imgs, NAMES))
    assert recall_limit(truth, present, NAMES) == 1 and recall_limit(truth, [], NAMES) == 0
    listed = ask_listed({"101": ["die", "truck"], 100: ["cup"]}, NAMES)
    assert listed == [(101, "die"), (100, "cup")]
    boxes = [a for a in content["annotations"] if (a["image_id"], a["category_id"]) in {(101, 40), (100, 3)}]
    assert recall_limit(truth, listed, NAMES) == len(boxes) / len(content["annotations"])
    for bad in ({"x.jpg": ["die"]}, {"101": "die"}, {"-1": []}):
        with pytest.raises(ValueError, match="map entry"):
            ask_listed(bad, NAMES)
    assert category_ids(truth, iter(["die"])) == {"die": 40}


def test_rows_leave_the_pictures_in_their_files(case, tmp_path) -> None:
    content, _, truth = case
    place, questions = content["annotations"][0]["image_id"], ask_present(truth, NAMES)[:3]
    for image in truth.imgs:
        Image.new("RGB", (640, 480), (image, 0, 0)).save(tmp_path / f"{image - 100}.jpg")
    rows = question_rows(truth, questions, tmp_path, thinking=False)
    assert rows["category"] == [name for _, name in questions] and "<think>" not in rows[0]["problem"]
    assert rows[0]["image"].size == (640, 480)
    stored = rows.cast_column("image", rows.features["image"].__class__(decode=False))[0]["image"]
    assert stored["bytes"] is None and Path(stored["path"]).parent == tmp_path
    (tmp_path / f"{place - 100}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=f"picture {place} not found"):
        question_rows(truth, [(place, "cup")], tmp_path)


def test_pictures_of_lvis_are_found_by_their_address(case, tmp_path) -> None:
    _, _, truth = case
    image = truth.imgs[100]
    del image["file_name"]
    image["coco_url"] = "http://images.cocodataset.org/train2017/000000000100.jpg"
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "train2017" / "000000000100.jpg")
    assert len(question_rows(truth, [(100, "fire hydrant")], tmp_path)) == 1
    truth.dataset["categories"][1]["name"] = "fire_hydrant"
    assert "fire hydrant" in question_rows(truth, [(100, "fire_hydrant")], tmp_path)[0]["problem"]


def reply(boxes: list[list[int]], confidences: list[float]) -> str:
    return prompts.completion(prompts.detection_answer(boxes, confidences), "a thought")


def test_results_are_pixels_and_survive_a_file(case, tmp_path) -> None:
    _, _, truth = case
    questions = [(100, "die"), (101, "cup"), (102, "cup")]
    replies = [reply([[0, 0, 500, 500], [100, 200, 300, 700]], [0.25, 0.5]), reply([], []), "nonsense"]
    results = coco_results(truth, questions, replies)
    assert results == [dict(image_id=100, category_id=40, bbox=[0, 0, 320, 240], score=0.25),
                       dict(image_id=100, category_id=40, bbox=[64, 96, 128, 240], score=0.5)]  # fmt: skip
    write_json(tmp_path / "results.json", results)
    assert read_json(tmp_path / "results.json") == results
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(truth.loadRes(str(tmp_path / "results.json")).anns) == 2  # other tools read it too
    assert [r["score"] for r in coco_results(truth, questions, replies, "one")] == [1, 1]
    assert [r["score"] for r in coco_results(truth, questions, replies, [0.1, 0.2, 0.3])] == [0.1, 0.1]
    silent = "<think>x</think><answer>[{'Position': [0, 0, 10, 10]}]</answer>"
    assert coco_results(truth, questions[:1], [silent])[0]["score"] == 1


def test_results_in_another_frame(case) -> None:
    _, _, truth = case
    width, height = resized_size(640, 480, max_pixels=200_000)
    assert (width, height) != (640, 480)
    frame = partial(from_resized, max_pixels=200_000)
    text = reply([[0, 0, width // 2, height // 2]], [1.0])
    assert coco_results(truth, [(100, "cup")], [text], frame=frame)[0]["bbox"] == pytest.approx([0, 0, 320, 240])


def test_results_of_bad_arguments(case) -> None:
    _, _, truth = case
    one = [(100, "cup")]
    with pytest.raises(ValueError, match="2 completions for 1 questions"):
        coco_results(truth, one, ["", ""])
    with pytest.raises(ValueError, match="2 scores for 1 answers"):
        coco_results(truth, one, [""], [0.5, 0.5])
    with pytest.raises(ValueError, match="not 'random'"):
        coco_results(truth, one, [""], "random")
    with pytest.raises(ValueError, match="picture 7 "):
        coco_results(truth, [(7, "cup")], [""])


# ------------------------------------------------------------------------------------------------ token probability


@pytest.fixture(scope="module")
def shipped():
    return models.load(models.tiny_folder())


@pytest.fixture(scope="module")
def scenes():
    return miniature.test_rows(count=8, negatives=0, thinking=False)


def test_probabilities_are_those_of_the_sampling(shipped, scenes) -> None:
    model, processor = shipped
    rows = scenes.select(range(3))
    inputs = encode_prompts(processor, rows["problem"], rows["image"])
    drawn = sample(model, inputs, 1, Sampling(max_new_tokens=48, temperature=0))
    texts, expected = processor.batch_decode(drawn.ids, skip_special_tokens=True), []
    for ids, logps, text in zip(drawn.ids, drawn.logps, texts):
        ends = [len(processor.decode(ids[:n + 1], skip_special_tokens=True)) for n in range(len(ids))]
        start, stop = text.index("<answer>") + len("<answer>"), text.index("</answer>")
        own = [v for v, first, last in zip(logps, [0, *ends], ends) if first < stop and last > start]
        expected.append(math.exp(np.mean(own)))
    assert len(set(expected)) == 3
    for batch in (1, 3):
        assert answer_probabilities(model, processor, rows, texts, batch=batch) == pytest.approx(expected, rel=1e-4)


def test_probabilities_of_texts_without_an_answer(shipped, scenes) -> None:
    model, processor = shipped
    texts = ["", "<think> I see", "<answer></answer>"]
    assert answer_probabilities(model, processor, scenes.select(range(3)), texts) == [0, 0, 0]
    assert answer_probabilities(model, processor, scenes.select([0]), [""]) == [0]
    with pytest.raises(ValueError, match="1 completions for 2 rows"):
        answer_probabilities(model, processor, scenes.select(range(2)), [""])
    assert token_probability([math.log(0.2), math.log(0.8)]) == pytest.approx(0.4)


# --------------------------------------------------------------------------------------------------- naming


def test_naming_by_both_rules() -> None:
    truth = ["<answer>american_bulldog</answer>"] * 5
    said = [prompts.completion(name) for name in ("American Bulldog", "bulldog", "", "beagle")] + ["american bulldog"]
    assert naming_scores(said, truth) == dict(exact=0.2, substring=0.6, only_substring=2, only_exact=0)
    hyphen = naming_scores([prompts.completion("737 200")], ["<answer>737-200</answer>"])
    assert hyphen == dict(exact=1, substring=0, only_substring=0, only_exact=1)
    with pytest.raises(ValueError, match="no completions"):
        naming_scores([], [])


# ---------------------------------------------------------------------------------------------------- masks


def test_mask_measures_are_those_of_plain_numpy() -> None:
    random = np.random.RandomState(0)
    pictures = [tuple(random.rand(3, 9, 7) > 0.6) for _ in range(20)]
    pictures.append(tuple(np.zeros((3, 9, 7), bool)))
    shared, joint, each = 0, 0, []
    for predicted, true, ignored in pictures:
        i = sum(p and t and not g for p, t, g in zip(predicted.flat, true.flat, ignored.flat))
        u = sum((p or t) and not g for p, t, g in zip(predicted.flat, true.flat, ignored.flat))
        shared, joint, each = shared + i, joint + u, [*each, i / u if u else 1.0]
    assert [mask_iou(*masks) for masks in pictures] == pytest.approx(each)
    assert mean_mask_iou(pictures) == pytest.approx(np.mean(each))
    assert cumulative_mask_iou(pictures) == pytest.approx(shared / joint)
    assert mask_iou(pictures[0][0], pictures[0][1]) != each[0]
    with pytest.raises(ValueError, match="one size"):
        mask_iou(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    for measure in (mean_mask_iou, cumulative_mask_iou):
        with pytest.raises(ValueError, match="at least one picture"):
            measure([])


def rectangle(x1: int, y1: int, x2: int, y2: int) -> list[list[int]]:
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def test_polygons_and_shapes() -> None:
    expected = np.zeros((20, 30), bool)
    expected[2:8, 3:13] = expected[10:15, 20:25] = True
    assert (polygon_mask([rectangle(3, 2, 13, 8), rectangle(20, 10, 25, 15)], 30, 20) == expected).all()
    for bad in ([[1, 1], [2, 2]], [[1, 1], [math.nan, 2], [3, 3]]):
        with pytest.raises(ValueError, match="polygon 1: expected at least three corners"):
            polygon_mask([rectangle(0, 0, 5, 5), bad], 30, 20)
    island = [dict(label="target", points=rectangle(5, 5, 8, 8)), dict(label="ignore", points=rectangle(2, 2, 12, 12))]
    hole = [dict(label="target", points=rectangle(2, 2, 12, 12)), dict(label="Ignore", points=rectangle(5, 5, 8, 8)),
            dict(label="flag", points=rectangle(0, 0, 20, 20))]  # fmt: skip
    for shapes, counts in ((island, (9, 91)), (hole, (91, 9)), (hole[::-1], (91, 9))):
        true, ignored = shape_masks(shapes, 30, 20)
        assert (true.sum(), ignored.sum()) == counts and not (true & ignored).any()


@pytest.fixture(scope="module")
def sam():
    """A tiny SAM of random weights."""
    vision = dict(hidden_size=32, output_channels=32, num_hidden_layers=2, num_attention_heads=2, image_size=64,
                  patch_size=8, window_size=4, global_attn_indexes=[1], num_pos_feats=16, mlp_dim=64)  # fmt: skip
    prompt = dict(hidden_size=32, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = dict(hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32)
    torch.manual_seed(0)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    return model.eval(), SamProcessor(SamImageProcessor(size=dict(longest_edge=64), pad_size=dict(height=64, width=64)))


def test_boxes_reach_sam_in_its_own_pixels(sam) -> None:
    model, processor = sam
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 100, 3), np.uint8))
    seen = {}

    def spy(module, args, kwargs) -> None:
        seen.update(kwargs)

    hook = model.register_forward_pre_hook(spy, with_kwargs=True)
    found = masks_from_boxes(model, processor, picture, np.array([[10, 5, 50, 25], [0, 0, 100, 50]]))
    hook.remove()
    assert seen["input_boxes"][0].numpy() == pytest.approx(np.array([[6.4, 3.2, 32, 16], [0, 0, 64, 32]]))
    assert seen["multimask_output"] is False and seen["pixel_values"].shape == (1, 3, 64, 64)
    assert found.shape == (2, 50, 100) and found.dtype == bool and 0 < found.mean() < 1
    assert (found[:1] == masks_from_boxes(model, processor, picture, [[10, 5, 50, 25]])).all()
    assert masks_from_boxes(model, processor, picture.convert("L"), [[1, 1, 9, 9]]).shape == (1, 50, 100)
    assert masks_from_boxes(model, processor, picture, []).shape == (0, 50, 100)


# ---------------------------------------------------------------------------------------------------- pixels


def test_pixel_limits_reach_the_picture(tiny) -> None:
    _, processor = tiny
    before = processor.image_processor.size
    picture, factor = Image.new("RGB", (300, 200)), models.PATCH * models.MERGE
    try:
        for least, most in ((1024, 20_000), (1024, 60_000), (100_000, 200_000)):
            models.limit_pixels(processor, most, least)
            inputs = encode_prompts(processor, ["What?"], [picture])
            width, height = resized_size(300, 200, factor=factor, min_pixels=least, max_pixels=most)
            assert inputs["image_grid_thw"][0].tolist() == [1, height // models.PATCH, width // models.PATCH]
            assert least <= width * height <= most
    finally:
        processor.image_processor.size = before
    for least, most in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="min_pixels <= max_pixels"):
            models.limit_pixels(processor, most, least)
    with pytest.raises(ValueError, match="Qwen-VL processor"):
        models.limit_pixels(processor.tokenizer, 2)


def test_published_limits_in_tokens() -> None:
    assert PIXELS["training"][1] == 512 * 28 * 28 and PIXELS["test"][1] == 16_384 * 28 * 28
    assert PIXELS["training"][0] == PIXELS["test"][0] == 4 * 28 * 28


# ---------------------------------------------------------------------------------------------------- shards


def two_answerers(folder: Path, shared: str, port: str) -> None:
    """Answer eight scenes in two processes, as torchrun starts them."""
    env = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, OMP_NUM_THREADS="1")
    command = [sys.executable, str(Path(__file__).with_name("two_answerers.py")), str(folder), "8", shared]
    environments = [os.environ | env | dict(RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=each) for each in environments]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]


def test_two_processes_answer_as_one(shipped, scenes, tmp_path) -> None:
    two_answerers(tmp_path, "rows", "29519")
    assert read_completions(tmp_path) == answer_rows(*shipped, scenes, **OPTIONS)
    assert [len(read_completions(tmp_path / f"shard-{i}-of-2")) for i in range(2)] == [4, 4]


def test_two_processes_with_half_a_model_each_answer_as_one(shipped, scenes, tmp_path) -> None:
    expected = answer_rows(*shipped, scenes, **OPTIONS)
    (tmp_path / "completions.jsonl").write_text(json.dumps(expected[0]) + "\n", encoding="utf-8")  # as after a kill
    two_answerers(tmp_path, "blocks", "29520")
    assert read_completions(tmp_path) == expected


def test_shards_resume_and_gaps_are_named(shipped, scenes, tmp_path) -> None:
    few = scenes.select(range(3))
    options = dict(batch=1, max_new_tokens=4)
    parts = [answer_shard(*shipped, few, tmp_path, 0, 2, **options)]
    with pytest.raises(FileNotFoundError):
        merge_shards(few, tmp_path, 2)
    parts.append(answer_shard(*shipped, few, tmp_path, 1, 2, **options))
    assert [len(part) for part in parts] == [2, 1]
    assert merge_shards(few, tmp_path, 2) == sum(parts, []) == read_completions(tmp_path)
    file = tmp_path / "shard-1-of-2" / "completions.jsonl"
    file.write_text('"written before"\n', encoding="utf-8")
    assert answer_shard(*shipped, few, tmp_path, 1, 2, **options) == ["written before"]
    file.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="shard 1 of 2 has 0 of 1"):
        merge_shards(few, tmp_path, 2)
    for index, count in ((0, 4), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"shard {index} of {count}"):
            answer_shard(*shipped, few, tmp_path, index, count)


def test_processes_that_accelerate_does_not_know(shipped, scenes, tmp_path, monkeypatch) -> None:
    PartialState(cpu=True)  # known from here on, whatever the environment says
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started, but accelerate was told of 1"):
        answer_sharded(*shipped, scenes, tmp_path)
    assert list(tmp_path.iterdir()) == []
