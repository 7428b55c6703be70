"""Shaping rewards: by hand, against brute force, against COCO's scorer and TRL's own code, and on hostile text."""

import contextlib
import io
import itertools
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

from visual_rft import prompts
from visual_rft.boxes import iou
from visual_rft.rewards import REWARD_SETS, detection_iou, grounding_iou
from visual_rft.shaping import (
    IOU_THRESHOLDS,
    VISION_R1_STAGES,
    ap_length_reward,
    ap_reward,
    apply_thresholds,
    average_precision,
    length_factor,
    repeated_share,
    repetition_penalty,
    soft_overlong_penalty,
    threshold_schedule,
    thresholded_iou,
)

TRUE = [(100, 100, 300, 300), (500, 500, 700, 900)]
POSITIVE = (thresholded_iou(0.5, 0.75), threshold_schedule(), ap_reward, ap_length_reward)
PENALTIES = (repetition_penalty(), soft_overlong_penalty(50, 10))
coarse = st.tuples(*[st.integers(0, 5)] * 2, *[st.integers(1, 4)] * 2).map(
    lambda v: (v[0] * 50, v[1] * 50, (v[0] + v[2]) * 50, (v[1] + v[3]) * 50)
)  # few places, so that equal boxes, equal overlaps and IoUs right at a threshold are common
boxes = st.lists(coarse, min_size=1, max_size=5)
confidence = st.sampled_from([0.0, 0.25, 0.5, 1.0])
limits = st.sampled_from([(0, 1), (0.3, 0.6), (0.5, 0.75), (0.5, 0.5), (0.75, 0.9), (0, 0.2), (1, 1)])


def said(predicted: list, confidences: list | None = None) -> str:
    """A detection completion; confidence 1 where none is given."""
    return prompts.completion(prompts.detection_answer(predicted, confidences or [1.0] * len(predicted)), "look")


def gold(true: list) -> str:
    return prompts.completion(prompts.detection_answer(true))


def at(step: int) -> SimpleNamespace:
    """A stand-in for the trainer's state."""
    return SimpleNamespace(global_step=step)


# thresholds


def test_thresholds_by_hand() -> None:
    values = np.array([[0.0, 0.49, 0.5], [0.74, 0.75, 1.0]])
    assert apply_thresholds(values, 0.5, 0.75).tolist() == [[0, 0, 0.5], [0.74, 1, 1]]
    reward = thresholded_iou(0.5, 0.75)
    narrow = [said([(100, 100, 100 + wide, 300), TRUE[1]]) for wide in (160, 120, 80)]
    assert reward(narrow, [gold(TRUE)] * 3) == pytest.approx([1, 0.8, 0.5])
    one_each = [said(TRUE[:1]), said([*TRUE, (0, 0, 9, 9)]), said([]), "", said([*TRUE, (300, 300, 100, 100)])]
    assert reward(one_each, [gold(TRUE)] * 5) == pytest.approx([2 / 3, 4 / 5, 0, 0, 4 / 5])
    assert reward([said([]), said(TRUE)], [gold([])] * 2) == [1, 0]


@settings(max_examples=200, deadline=None)
@given(boxes, boxes, limits)
def test_thresholded_iou_is_the_best_of_all_pairings(predicted: list, true: list, limit: tuple) -> None:
    values = apply_thresholds(iou(predicted, true), *limit)
    few, many = sorted([len(predicted), len(true)])
    table = values if len(predicted) == few else values.T
    best = max(table[range(few), list(choice)].sum() for choice in itertools.permutations(range(many), few))
    assert thresholded_iou(*limit)([said(predicted)], [gold(true)])[0] == pytest.approx(2 * best / (few + many))


def test_thresholds_come_before_the_matching() -> None:
    true, predicted = [(0, 0, 100, 100), (60, 0, 130, 100)], [(10, 0, 105, 100), (0, 0, 50, 100)]
    assert thresholded_iou(0.5, 0.75)([said(predicted)], [gold(true)]) == [0.5]


@settings(max_examples=100, deadline=None)
@given(boxes, boxes)
def test_thresholds_0_and_1_change_nothing(predicted: list, true: list) -> None:
    assert thresholded_iou(0, 1)([said(predicted)], [gold(true)]) == pytest.approx(
        detection_iou([said(predicted)], [gold(true)])
    )
    answer = prompts.completion(prompts.grounding_answer(predicted[0]), "x")
    solution = prompts.completion(prompts.grounding_answer(true[0]))
    assert thresholded_iou(0, 1, "grounding")([answer], [solution]) == grounding_iou([answer], [solution])
    expected = apply_thresholds(iou(predicted[:1], true[:1])[0], 0.3, 0.6).tolist()
    assert thresholded_iou(0.3, 0.6, "grounding")([answer], [solution]) == expected


@pytest.mark.parametrize("low,high", [(0.8, 0.5), (-0.1, 0.5), (0.5, 1.1), (0, 0), (float("nan"), 0.5)])
def test_thresholds_are_checked(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        thresholded_iou(low, high)


def test_schedule_follows_the_step() -> None:
    reward, text, truth = threshold_schedule(), [said([(100, 100, 220, 300)])], [gold(TRUE[:1])]  # IoU 0.6
    paid = {step: reward(text, truth, trainer_state=at(step))[0] for step in (0, 1499, 1500, 10**6)}
    assert paid == {0: pytest.approx(0.6), 1499: pytest.approx(0.6), 1500: 0, 10**6: 0}
    assert VISION_R1_STAGES == ((0, 0.5, 0.75), (1500, 0.75, 0.9))
    three = threshold_schedule([(0, 0, 0.5), (10, 0, 1), (20, 0.7, 1)], "grounding")
    answer = prompts.completion("(100,100),(220,300)", "x"), prompts.completion("(100,100),(300,300)")
    paid = [three(*[[part] for part in answer], trainer_state=at(step))[0] for step in (0, 9, 10, 19, 20)]
    assert paid == pytest.approx([1, 1, 0.6, 0.6, 0])


def test_schedule_is_checked() -> None:
    for stages in ([], [(1, 0.5, 0.75)], [(0, 0.5, 0.75), (0, 0.6, 0.8)], [(0, 0, 1), (9, 0, 1), (5, 0, 1)]):
        with pytest.raises(ValueError, match="begin at step 0 and rise"):
            threshold_schedule(stages)
    with pytest.raises(ValueError, match="thresholds"):
        threshold_schedule([(0, 0.5, 0.75), (10, 0.9, 0.8)])
    with pytest.raises(ValueError, match="detection or grounding"):
        threshold_schedule(task="classification")
    with pytest.raises(ValueError, match="trainer_state"):
        threshold_schedule()([said(TRUE)], [gold(TRUE)])


# average precision


def coco_ap(predicted: list, confidences: list, true: list) -> float:
    """AP of one image and category by pycocotools."""

    def entry(box: tuple, **more: float) -> dict:
        x1, y1, x2, y2 = box
        place = dict(image_id=1, category_id=1, bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
        return place | more

    coco = COCO()
    annotations = [entry(box, id=number, iscrowd=0) for number, box in enumerate(true, start=1)]
    coco.dataset = dict(info={}, images=[dict(id=1)], categories=[dict(id=1, name="x")], annotations=annotations)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        found = coco.loadRes([entry(box, score=score) for box, score in zip(predicted, confidences, strict=True)])
        scorer = COCOeval(coco, found, "bbox")
        scorer.evaluate()
        scorer.accumulate()
    return float(scorer.eval["precision"][:, :, 0, 0, -1].mean())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(coarse, confidence), min_size=1, max_size=8), boxes)
def test_ap_is_that_of_coco(written: list, true: list) -> None:
    predicted, confidences = map(list, zip(*written, strict=True))
    expected = coco_ap(predicted, confidences, true)
    assert average_precision(iou(predicted, true), confidences) == pytest.approx(expected, abs=1e-9)
    assert ap_reward([said(predicted, confidences)], [gold(true)])[0] == pytest.approx(expected, abs=1e-9)


def test_ap_is_that_of_coco_for_many_fine_boxes() -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        corners = random.integers(0, 800, (30, 2))
        true = np.hstack([corners, corners + random.integers(20, 200, (30, 2))])[: random.integers(1, 31)]
        noisy = np.tile(true, (3, 1)) + random.integers(-12, 13, (3 * len(true), 4))
        predicted, confidences = noisy.tolist(), random.random(len(noisy)).round(2).tolist()
        expected = coco_ap(predicted, confidences, true.tolist())
        assert average_precision(iou(predicted, true), confidences) == pytest.approx(expected, abs=1e-9)


def test_ap_takes_the_later_of_equal_true_boxes() -> None:
    true = [(0, 0, 100, 100), (50, 0, 150, 100)]
    predicted = [(25, 0, 125, 100), (0, 0, 100, 100)]  # the first has IoU 0.6 with both
    overlaps = iou(predicted, true)
    assert overlaps[0, 0] == overlaps[0, 1]
    assert average_precision(overlaps, [0.9, 0.8]) == pytest.approx(coco_ap(predicted, [0.9, 0.8], true), abs=1e-9)


def test_ap_by_hand() -> None:
    assert np.allclose(IOU_THRESHOLDS, [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    hit_miss_hit = np.array([[1, 0], [0, 0], [0, 1]])
    assert average_precision(hit_miss_hit, [0.9, 0.5, 0.3]) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision(hit_miss_hit, [0.5, 0.9, 0.3]) == pytest.approx(2 / 3)
    assert average_precision(np.array([[0.72]]), [0.1]) == pytest.approx(0.5)
    assert average_precision(np.zeros((0, 2)), []) == 0


@settings(max_examples=100, deadline=None)
@given(boxes, boxes, coarse)
def test_a_last_box_never_lowers_ap_but_lowers_the_product(predicted: list, true: list, surplus: tuple) -> None:
    predicted = (true + predicted)[:6]
    falling = [1 - 0.1 * number for number in range(len(predicted) + 1)]
    before, after = said(predicted, falling[:-1]), said([*predicted, surplus], falling)
    values = ap_reward([before, after], [gold(true)] * 2)
    assert values[1] >= values[0] - 1e-12
    exact = said(true, [1.0] * len(true)), said([*true, surplus], [1.0] * len(true) + [0.0])
    assert ap_reward(exact, [gold(true)] * 2) == pytest.approx([1, 1])
    assert ap_length_reward(exact, [gold(true)] * 2) == pytest.approx([1, len(true) / (len(true) + 1)])


def test_length_factor_by_hand() -> None:
    cases = {(2, 0): 1, (2, 2): 1, (2, 4): 0.5, (1, 100): 0.01, (0, 0): 1, (0, 3): 0}
    assert {case: length_factor(*case) for case in cases} == cases


def test_ap_rewards_without_objects_and_with_rejected_boxes() -> None:
    for reward in (ap_reward, ap_length_reward):
        assert reward([said([]), said(TRUE), "", said([])], [gold([])] * 3 + [gold(TRUE)]) == [1, 0, 0, 0]
        with pytest.raises(ValueError, match="not a detection solution"):
            reward([said(TRUE)], ["two cats"])
    swapped = said([*TRUE, (300, 300, 100, 100)])
    assert ap_reward([swapped], [gold(TRUE)]) == [1]
    assert ap_length_reward([swapped], [gold(TRUE)]) == pytest.approx([2 / 3])


def test_a_missing_confidence_ranks_last() -> None:
    junk_first = said([(0, 900, 50, 950), TRUE[0]], [0.77, 0.5])
    assert ap_reward([junk_first], [gold(TRUE[:1])]) == pytest.approx([0.5])
    unsure_junk = junk_first.replace(", 'Confidence': 0.77", "")
    assert ap_reward([unsure_junk], [gold(TRUE[:1])]) == pytest.approx([1])


# repetition


def test_repetition_by_hand() -> None:
    assert repeated_share("a b c a b c", 3) == pytest.approx(1 / 4)
    assert repeated_share("No, no, NO - no: no!", 1) == pytest.approx(4 / 5)
    assert [repeated_share(text, 3) for text in ("", "a b", "a b c", "a b c d", "!!! ... ???")] == [0] * 5
    assert repeated_share("a b c " * 1000, 3) == pytest.approx(1 - 3 / 2998)
    assert repetition_penalty(3, 0.5)(["a b c a b c", "a b c d"]) == [pytest.approx(-1 / 8), 0]
    assert str(repetition_penalty()(["once"])[0]) == "0.0"  # no minus zero in the logs


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 7), st.sampled_from([0.0, 0.3, 1.0]))
def test_repetition_is_that_of_trl_on_words(words: list, n: int, weight: float) -> None:
    ids = [ord(word) for word in words]
    expected = get_repetition_penalty_reward(n, -weight)([ids])
    assert repetition_penalty(n, weight)([" ".join(words)]) == pytest.approx(expected)


@pytest.mark.parametrize("columns", range(1, 7))
def test_honest_lists_of_boxes_cost_nothing(columns: int) -> None:
    """Equal objects in straight rows are the hard case: coordinates come back, boxes do not."""
    grid = [(x, y, x + 60, y + 90) for y in range(50, 900, 150) for x in range(50, 50 + 140 * columns, 140)]
    assert repetition_penalty()([said(grid, [0.9] * len(grid))])[0] > -0.02
    assert repetition_penalty()([said(grid[:1] * 20, [0.9] * 20)])[0] < -0.9


def test_a_loop_is_found_wherever_it_stands() -> None:
    loop = "I see a mug on the left, and " * 20
    places = [f"<think> {loop}", f"<think> {loop}</think><answer>x</answer>", f"<answer>{loop}", loop]
    assert max(repetition_penalty()(places)) < -0.9
    assert repetition_penalty()([[{"role": "assistant", "content": loop}]])[0] < -0.9


def test_repetition_takes_linear_time() -> None:
    start = time.process_time()
    repeated_share("mug " * 100_000, 6)
    repeated_share(" ".join(map(str, range(100_000))), 6)
    repeated_share("a" * 1_000_000, 6)
    assert time.process_time() - start < 10  # well below one second; a comparison of all pairs would take hours


def test_repetition_is_checked() -> None:
    for n, weight in ((0, 1), (3, -0.1), (3, 1.5)):
        with pytest.raises(ValueError, match="n is at least 1"):
            repetition_penalty(n, weight)


# length


def test_overlong_by_hand() -> None:
    ids = [[0] * length for length in (0, 80, 85, 90, 100, 101, 500)]
    paid = soft_overlong_penalty(100, 20)(completions=["x"] * 7, completion_ids=ids)
    assert paid == pytest.approx([0, 0, -0.25, -0.5, -1, -1, -1])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_overlong_is_that_of_trl(limit: int, buffer: int) -> None:
    limit += buffer
    ids = [[0] * length for length in range(limit + 5)]
    expected = get_soft_overlong_punishment(limit, buffer)(ids)
    assert soft_overlong_penalty(limit, buffer)([""] * len(ids), completion_ids=ids) == pytest.approx(expected)


def test_overlong_is_checked() -> None:
    for limit, buffer in ((100, 0), (100, 101), (0, 0), (100, -5)):
        with pytest.raises(ValueError, match="buffer"):
            soft_overlong_penalty(limit, buffer)
    with pytest.raises(ValueError, match="completion_ids"):
        soft_overlong_penalty(100, 20)(["text"], solution=["x"])
    with pytest.raises(ValueError, match="shorter"):
        soft_overlong_penalty(100, 20)(["a", "b"], completion_ids=[[1]])


# all of them


ENTRIES = ["{'Position': [1, 2, 30, 40], 'Confidence': 0.5}", "{'Position': [9, 9, 1, 1]}", "No Objects"]
PIECES = [*ENTRIES, *"<think> </think> <answer> </answer> [ ] , NaN 1e999 -5 \x00 \ud800 word".split(" ")]
HOSTILE = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


@settings(max_examples=150, deadline=None)
@given(HOSTILE, st.sampled_from([[], TRUE]), st.integers(0, 99))
def test_values_are_finite_and_in_range(text: str, true: list, length: int) -> None:
    columns = dict(completions=[text], solution=[gold(true)], completion_ids=[[0] * length])
    columns |= dict(trainer_state=at(length * 50))
    for reward in POSITIVE:
        assert 0 <= reward(**columns)[0] <= 1
    for penalty in PENALTIES:
        assert -1 <= penalty(**columns)[0] <= 0


def test_honest_answers_keep_everything() -> None:
    columns = dict(
        completions=[said(TRUE)],
        solution=[gold(TRUE)],
        completion_ids=[[0] * 40],
        trainer_state=at(5000),
    )
    assert [reward(**columns)[0] for reward in POSITIVE] == [1] * len(POSITIVE)
    assert [penalty(**columns)[0] for penalty in PENALTIES] == [0] * len(PENALTIES)


def test_trl_passes_what_they_need() -> None:
    """TRL's own method calls them, with the columns that it passes in training."""
    from transformers import TrainerState
    from trl import GRPOTrainer

    functions = [*REWARD_SETS["robust"]["detection"], *POSITIVE, *PENALTIES]
    names = [function.__name__ for function in functions]
    ours = ["thresholded_iou", "threshold_schedule", "ap_reward", "ap_length_reward", "repetition_penalty"]
    assert names[3:] == [*ours, "soft_overlong_penalty"]  # TRL logs each reward under its name
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        state=TrainerState(global_step=2000),
        reward_funcs=functions,
        reward_func_names=names,
        reward_processing_classes=[None] * len(functions),
        environments=None,
        _log_completion_extra=None,
        _log_metric=None,
    )
    rows = [dict(prompt="find cats", solution=gold(TRUE), problem="<think>")] * 2
    texts = [said(TRUE), said([(100, 100, 260, 300), TRUE[1]])]  # the second has IoU 0.8 and 1
    calculate = GRPOTrainer._calculate_rewards.__wrapped__  # without the profiler around it
    table = calculate(trainer, rows, ["find cats"] * 2, texts, [[0] * 40, [0] * 45])
    assert table[0].tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert table[1, 3:].tolist() == pytest.approx([1, 0.9, *ap_reward(texts[1:], [gold(TRUE)]) * 2, 0, -0.5])


def test_the_module_is_light() -> None:
    code = "import sys, visual_rft.shaping; print({'torch', 'scipy', 'trl', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
