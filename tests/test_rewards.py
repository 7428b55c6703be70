"""Rewards: by hand, by property, and against attacks."""

import json
import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from visual_rft import prompts, rewards
from visual_rft.advantages import group_advantages, has_signal, leave_one_out, total_reward
from visual_rft.boxes import from_thousandths, giou, iou, match_greedy, match_optimal, to_thousandths
from visual_rft.parsing import MAX_CHARACTERS, PARSERS, parse_detection
from visual_rft.rewards import REWARD_SETS, text_of

TRUE = [[100, 100, 300, 300], [500, 500, 700, 900]]
SOLUTIONS = {
    "detection": prompts.completion(prompts.detection_answer(TRUE)),
    "classification": prompts.completion("hot dog"),
    "grounding": prompts.completion(prompts.grounding_answer(TRUE[0])),
}
HONEST = {
    "detection": prompts.completion(prompts.detection_answer(TRUE, [1.0, 1.0]), "two of them"),
    "classification": prompts.completion("hot dog", "a sausage"),
    "grounding": prompts.completion(prompts.grounding_answer(TRUE[0]), "there"),
}
box = st.tuples(*[st.integers(0, 1000)] * 4).map(
    lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]) + 1, max(v[1], v[3]) + 1]
)


def score(task: str, text: str, kind: str = "robust", solution: str | None = None) -> float:
    columns = dict(completions=[text], solution=[solution or SOLUTIONS[task]])
    return sum(reward(**columns)[0] for reward in REWARD_SETS[kind][task])


@pytest.mark.parametrize("task", HONEST)
def test_the_honest_answer_gets_everything(task: str) -> None:
    assert score(task, HONEST[task]) == pytest.approx(len(REWARD_SETS["robust"][task]))


ATTACKS = {
    "detection": [
        "",
        "<think></think><answer></answer>",
        "junk " * 500,
        prompts.detection_prompt("cat"),
        "<think>x</think><answer>No Objects</answer>",
        "<think>x</think><answer>[]</answer>",
        prompts.completion(prompts.detection_answer([[0, 0, 10, 10]], [0.0]), "conf 0 on junk"),
        prompts.completion(prompts.detection_answer([[0, 0, 1000, 1000]], [1.0]), "one giant box"),
        prompts.completion(prompts.detection_answer(TRUE * 5, [1.0] * 10), "duplicates"),
        prompts.completion(
            prompts.detection_answer(
                [[x, y, x + 100, y + 100] for x in range(0, 1000, 100) for y in range(0, 1000, 100)], [0.0] * 100
            ),
            "grid",
        ),
        "<think>x</think><answer>[{'Position': [100, 100, 300, 300], 'Confidence': NaN}]</answer>",
        "<think>x</think><answer>[{'Position': [100, 100, 300, 300], 'Confidence': Infinity}]</answer>",
        "<think>x</think><answer>[{'Position': [300, 300, 100, 100], 'Confidence': 1}]</answer>",
        "<think>x</think><answer>[{'Position': [100, 100, 300, 300], 'Confidence': 100}]</answer>",
        "<think>x</think><answer>[{'Position': ['100', '100', '300', '300'], 'Confidence': 1}]</answer>",
        "<think><answer>[{'Position': [100, 100, 300, 300], 'Confidence': 1}]</answer></think>",
        HONEST["detection"] + HONEST["detection"],
        SOLUTIONS["detection"],
        "\x00" + HONEST["detection"],
    ],
    "classification": [
        "",
        "<think>x</think><answer></answer>",
        "hot dog",
        "<think>x</think><answer>dog</answer>",
        "<think>x</think><answer>hot</answer>",
        "<think>x</think><answer>cat, dog, hot dog, bus</answer>",
        "<think>x</think><answer>-</answer>",
        SOLUTIONS["classification"],
        "<answer>hot dog",
    ],
    "grounding": [
        "",
        "<think>x</think><answer>(900,900),(0,0)</answer>",
        "<think>x</think><answer>(0,0),(1000,1000)</answer>",
        "<think>x</think><answer>(300,300),(100,100)</answer>",
        SOLUTIONS["grounding"],
        "(100,100),(300,300)",
    ],
}


@pytest.mark.parametrize(("task", "text"), [(task, text) for task in ATTACKS for text in ATTACKS[task]])
def test_no_attack_reaches_the_honest_answer(task: str, text: str) -> None:
    assert score(task, text) < score(task, HONEST[task]) - 0.01


def test_the_paper_pays_in_full_for_confidence_zero_on_junk_and_robust_as_for_no_claim() -> None:
    junk = prompts.completion(prompts.detection_answer([[900, 0, 1000, 50]], [0.0]), "give up")
    solution = [SOLUTIONS["detection"]]
    paper = REWARD_SETS["paper"]["detection"][1]
    robust = REWARD_SETS["robust"]["detection"][1]
    silence = prompts.completion(prompts.NO_OBJECTS, "give up")
    assert paper([junk], solution) == [1.0] and robust([junk, silence, "?"], solution * 3) == [0.5, 0.5, 0.0]


def test_a_right_no_objects_is_rewarded() -> None:
    negative = prompts.completion(prompts.NO_OBJECTS)
    assert score("detection", prompts.completion(prompts.NO_OBJECTS, "nothing"), solution=negative) == 3.0
    assert score("detection", HONEST["detection"], solution=negative) == 1.0  # the format only


def test_stating_the_iou_is_the_best_confidence() -> None:
    shifted, reward = [[100, 100, 300, 340]], REWARD_SETS["robust"]["detection"][1]
    truth = [prompts.completion(prompts.detection_answer(TRUE[:1]))]
    expected = iou(shifted, TRUE[:1])[0, 0]
    grid = np.arange(0, 101) / 100
    values = [reward([prompts.completion(prompts.detection_answer(shifted, [c]), "x")], truth)[0] for c in grid]
    assert abs(grid[int(np.argmax(values))] - expected) <= 0.01


def test_the_confidence_reward_is_proper_for_a_lone_box_that_may_be_wrong() -> None:
    reward, truth = REWARD_SETS["robust"]["detection"][1], [prompts.completion(prompts.detection_answer(TRUE[:1]))]
    grid = np.arange(0, 101) / 100
    for chance in (0.25, 0.75):
        means = []
        for c in grid:
            answers = (prompts.detection_answer([written], [c]) for written in (TRUE[0], [900, 0, 950, 50]))
            hit, miss = (prompts.completion(answer, "x") for answer in answers)
            means.append(np.dot([chance, 1 - chance], reward([hit, miss], truth * 2)))
        assert abs(grid[int(np.argmax(means))] - chance) <= 0.01


@pytest.mark.parametrize("task", ["classification", "grounding"])
def test_an_unreadable_solution_is_an_error(task: str) -> None:
    with pytest.raises(ValueError, match=f"not a {task} solution"):
        REWARD_SETS["robust"][task][0]([HONEST[task]], ["somewhere, something"])


def test_the_papers_equations_by_hand() -> None:
    places, sureness = REWARD_SETS["paper"]["detection"][:2]
    half, junk = [100, 100, 200, 300], [900, 0, 950, 50]  # IoU 0.5 with the first true box, and none
    answers = [([TRUE[0], junk], [0.9, 0.2]), ([half], [0.7]), ([TRUE[0], TRUE[0]], [0.6, 0.9])]
    texts = [prompts.completion(prompts.detection_answer(boxes, stated), "x") for boxes, stated in answers]
    solution = [SOLUTIONS["detection"]] * 3
    assert places(texts, solution) == pytest.approx([1 / 2, 0.5, 1 / 2])
    assert sureness(texts, solution) == pytest.approx([(0.9 + 0.8) / 2, 0.7, (0.9 + 0.4) / 2])


def test_as_many_solutions_as_completions() -> None:
    for reward in REWARD_SETS["robust"]["detection"][:2]:
        with pytest.raises(ValueError, match="2 completions need as many solutions, not 1"):
            reward([HONEST["detection"]] * 2, [SOLUTIONS["detection"]])


def test_a_group_is_scored_like_its_members() -> None:
    honest = HONEST["detection"]
    texts = [honest, SOLUTIONS["detection"], "", prompts.completion(prompts.NO_OBJECTS, "x"), honest]
    truths = [SOLUTIONS["detection"]] * 3 + [prompts.completion(prompts.NO_OBJECTS)] * 2
    for reward in REWARD_SETS["robust"]["detection"]:
        alone = [reward([text], [truth])[0] for text, truth in zip(texts, truths, strict=True)]
        assert reward(texts, truths) == alone
        assert reward(texts[::-1], truths[::-1]) == alone[::-1]


def test_a_solution_with_a_broken_box_is_an_error() -> None:
    broken = "<answer>[{'Position': [300, 300, 100, 100], 'Confidence': 1}]</answer>"
    with pytest.raises(ValueError, match="not a detection solution"):
        REWARD_SETS["robust"]["detection"][0]([HONEST["detection"]], [broken])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.sampled_from(list(HONEST)), st.sampled_from(["robust", "paper"]))
def test_any_text_gets_a_finite_reward(text: str, task: str, kind: str) -> None:
    for attempt in (text, f"<think>{text}</think><answer>{text}</answer>", HONEST[task].replace("1", text[:5])):
        for reward in REWARD_SETS[kind][task]:
            value = reward(completions=[attempt], solution=[SOLUTIONS[task]])[0]
            assert math.isfinite(value) and 0 <= value <= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(box, st.floats(0, 1)), min_size=1, max_size=6))
def test_what_is_written_is_what_is_read(items: list) -> None:
    boxes, stated = [b for b, _ in items], [round(c, 2) for _, c in items]
    parsed = parse_detection(prompts.completion(prompts.detection_answer(boxes, stated), "fine"))
    assert [list(p.box) for p in parsed.boxes] == boxes and [p.confidence for p in parsed.boxes] == stated
    assert parsed.well_formed


def test_json_and_fences_are_forgiven_but_not_well_formed() -> None:
    items = [{"Position": TRUE[0], "Confidence": 0.5}]
    text = f"<think>x</think><answer>```json\n{json.dumps(items, indent=2)}\n```</answer>"
    parsed = parse_detection(text)
    assert [list(p.box) for p in parsed.boxes] == TRUE[:1] and not parsed.well_formed


def test_a_list_cut_off_by_the_length_limit_keeps_its_whole_boxes() -> None:
    text = HONEST["detection"][:-60]
    assert [list(p.box) for p in parse_detection(text).boxes] == TRUE[:1]


@pytest.mark.parametrize("task", PARSERS)
def test_a_megabyte_is_read_at_once(task: str) -> None:
    import time

    for text in ("<think>" * 150_000, "[" * 1_000_000, "<answer>" + "{'Position': [" * 80_000, "(1,1),(" * 150_000):
        started = time.perf_counter()
        PARSERS[task](text)
        assert time.perf_counter() - started < 0.2


def test_wrong_solutions_are_errors_that_show_the_solution() -> None:
    for task, reward in (("detection", 0), ("classification", 0), ("grounding", 0)):
        with pytest.raises(ValueError, match="gibberish|not a"):
            REWARD_SETS["robust"][task][reward](completions=["x"], solution=["gibberish"])


def test_conversational_completions_are_read() -> None:
    assert text_of([{"role": "assistant", "content": "a"}]) == "a"
    assert text_of([{"role": "assistant", "content": [{"type": "text", "text": "b"}]}]) == "b"


@settings(max_examples=100, deadline=None)
@given(st.lists(box, min_size=1, max_size=5), st.lists(box, min_size=1, max_size=5))
def test_overlaps_equal_torchvision(first: list, second: list) -> None:
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    assert np.allclose(iou(first, second), torchvision.ops.box_iou(a, b).numpy())
    assert np.allclose(giou(first, second), torchvision.ops.generalized_box_iou(a, b).numpy())


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000))
def test_optimal_matching_is_optimal(rows: int, columns: int, seed: int) -> None:
    from itertools import permutations

    overlaps = np.random.default_rng(seed).random((rows, columns)) * (
        np.random.default_rng(seed + 1).random((rows, columns)) > 0.4
    )
    wide = overlaps if rows <= columns else overlaps.T
    best = max(
        sum(wide[i, j] for i, j in enumerate(order)) for order in permutations(range(wide.shape[1]), wide.shape[0])
    )
    found = match_optimal(overlaps)
    assert sum(overlaps[i, j] for i, j in found) == pytest.approx(best)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)


def test_greedy_matching_follows_confidence() -> None:
    overlaps = np.array([[0.9, 0.6], [0.95, 0.0]])
    assert match_greedy(overlaps, [0.9, 0.1]) == [(0, 0)]
    assert sorted(match_optimal(overlaps)) == [(0, 1), (1, 0)]


@settings(deadline=None)
@given(st.integers(28, 4000), st.integers(28, 4000), st.lists(box, min_size=1, max_size=4))
def test_frames_round_trip(width: int, height: int, boxes: list) -> None:
    boxes = np.minimum(boxes, 1000)
    assert np.abs(to_thousandths(from_thousandths(boxes, width, height), width, height) - boxes).max() == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 3), min_size=8, max_size=8))
def test_advantages_are_centred_and_equal_trl(rewards: list) -> None:
    table = torch.tensor(rewards, dtype=torch.float64).view(-1, 4)
    expected = (table - table.mean(1, keepdim=True)) / (table.std(1, keepdim=True) + 1e-4)
    assert np.allclose(group_advantages(rewards, 4), expected.flatten().numpy())
    others = np.array([(sum(rewards[:4]) - r) / 3 for r in rewards[:4]])
    assert np.allclose(leave_one_out(rewards, 4)[:4], np.array(rewards[:4]) - others)
    assert np.allclose(group_advantages(rewards, 4, "none").reshape(-1, 4).sum(1), 0)
    assert (has_signal(rewards, 4) == [len(set(rewards[:4])) > 1, len(set(rewards[4:])) > 1]).all()


def test_bad_groups_and_weights_are_errors() -> None:
    with pytest.raises(ValueError, match="groups of 3"):
        group_advantages([1, 2, 3, 4], 3)
    with pytest.raises(ValueError, match="weights"):
        total_reward([[1, 2], [3, 4]], [1.0])
    assert total_reward([[1, 2], [3, 4]], [1, 0.5]).tolist() == [2.5, 4.0]


@pytest.mark.parametrize("kind", ["robust", "paper"])
@pytest.mark.parametrize("task", HONEST)
def test_a_solution_is_missing(kind: str, task: str) -> None:
    for reward in REWARD_SETS[kind][task]:
        if not reward.__name__.endswith("format"):
            with pytest.raises(ValueError):
                reward(completions=[HONEST[task]] * 2, solution=[SOLUTIONS[task]])


def test_text_of_joins_the_texts_of_the_last_message() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert text_of([{"content": "no"}, {"content": parts}]) == "ab"
    assert text_of([]) == "" and text_of([{"content": "c"}]) == "c"


@pytest.mark.parametrize("task", HONEST)
def test_the_format_reward_asks_what_the_prompt_asked(task: str) -> None:
    reward = rewards._format_reward(task)
    assert reward.__name__ == reward.__qualname__ == f"{task}_format" and task in reward.__doc__
    bare = SOLUTIONS[task]
    said, problem = [bare, HONEST[task], bare, HONEST[task]], ["<think>", "<think>", "just answer", "just answer"]
    assert reward(completions=said, problem=problem) == [0, 1, 1, 0]
    assert reward(completions=said) == [0, 1, 0, 1]
    with pytest.raises(ValueError):
        reward(completions=said, problem=problem[:2])


def test_lone_boxes_by_hand() -> None:
    assert score("grounding", prompts.completion("nowhere", "hm")) == 0
    one = prompts.completion(prompts.detection_answer(TRUE[:1]))
    confidence = REWARD_SETS["robust"]["detection"][1]
    for stated, expected in ((1.0, 1.0), (0.5, 0.875), (0.0, 0.5)):
        said = prompts.completion(prompts.detection_answer(TRUE[:1], [stated]), "hm")
        assert confidence(completions=[said], solution=[one]) == [pytest.approx(expected)]


def test_names_are_compared_in_one_spelling() -> None:
    assert rewards.normalise_name(" Fire_hydrant-RED ") == "fire hydrant red"


def test_a_long_completion_is_read_up_to_the_limit_and_no_further() -> None:
    assert "too long" in rewards.read_completion("detection", "x" * (MAX_CHARACTERS + 1)).forgiven
    assert "too long" not in rewards.read_completion("detection", "x" * MAX_CHARACTERS).forgiven
    assert rewards.read_completion("classification", SOLUTIONS["classification"]).forgiven == ("no thinking",)
