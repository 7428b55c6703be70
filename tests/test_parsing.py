"""Parsing: what is forgiven, what is rejected, and that both are said."""

import pytest

from visual_rft import parsing, prompts
from visual_rft.parsing import (
    MAX_BLANKS,
    MAX_BOXES,
    MAX_CHARACTERS,
    parse_classification,
    parse_detection,
    parse_grounding,
    split_tags,
)

GOOD = "{'Position': [10, 20, 30, 40], 'Confidence': 0.9}"


def answer(text: str, thought: str = "look"):
    """A detection completion with this answer, parsed."""
    return parse_detection(f"<think>{thought}</think><answer>{text}</answer>")


@pytest.mark.parametrize(
    ("written", "boxes", "rejected", "notes"),
    [
        (f"[{GOOD}]", 1, 0, ()),
        (GOOD, 1, 0, ("no list",)),
        (f"[{GOOD}, {{'Position': [1, 2, 3, 4], 'Position': [5, 6, 7, 8]}}]", 1, 1, ("broken list",)),
        ("42", 0, 0, ("no list", "no boxes")),
        ("[]", 0, 0, ("no boxes",)),
        (f"[{GOOD}, 7, null]", 1, 2, ()),
        (f"[{GOOD}, {{'Position': 1, 'Confidence': 1}}]", 1, 1, ()),
        (f"[{GOOD}, {{'Position': [10, 20, 30, 40]}}]", 2, 0, ("no confidence",)),
        (f"[{GOOD}, {{'Position': [10, 20, 30, 40], 'Confidence': 1, 'Also': [1, 2, 3, 4]}}]", 2, 0, ("unknown keys",)),
        ("[{'Position': [10.5, 20, 30, 40], 'Confidence': 1}]", 1, 0, ("not whole numbers",)),
        (f"```json\n[{GOOD}]\n```", 1, 0, ("code fence",)),
        (f"[{GOOD}, {{'Position': [1, 2", 1, 0, ("broken list",)),
        (f"[{', '.join([GOOD] * (MAX_BOXES + 5))}]", MAX_BOXES, 0, ("too many boxes",)),
        (f"[{', '.join([GOOD] * (MAX_BOXES + 5))}, {{", MAX_BOXES, 0, ("broken list", "too many boxes")),
    ],
)
def test_every_departure_has_its_note(written: str, boxes: int, rejected: int, notes: tuple) -> None:
    parsed = answer(written)
    assert (len(parsed.boxes), parsed.rejected, parsed.forgiven) == (boxes, rejected, notes)
    assert parsed.well_formed == (not notes and not rejected)


@pytest.mark.parametrize("confidence", ["NaN", "Infinity", "-Infinity", "1e999", "100", "-0.1", "1.01"])
def test_a_confidence_outside_0_to_1_costs_the_box(confidence: str) -> None:
    parsed = answer(f"[{GOOD}, {{'Position': [10, 20, 30, 40], 'Confidence': {confidence}}}]")
    assert (len(parsed.boxes), parsed.rejected) == (1, 1)


@pytest.mark.parametrize("corner", ["NaN", "Infinity", "1e999", "1000000", "-1", "'1'", "true", "null", "9" * 400])
def test_a_corner_that_is_no_number_below_a_million_costs_the_box(corner: str) -> None:
    parsed = answer(f"[{GOOD}, {{'Position': [0, 0, {corner}, 40], 'Confidence': 1}}]")
    assert (len(parsed.boxes), parsed.rejected) == (1, 1)


@pytest.mark.parametrize("box", ["30, 20, 10, 40", "10, 40, 30, 20", "10, 20, 10, 40", "10, 20, 30, 20", "10, 20, 30"])
def test_swapped_flat_and_short_boxes_are_rejected(box: str) -> None:
    parsed = answer(f"[{{'Position': [{box}], 'Confidence': 1}}]")
    assert (len(parsed.boxes), parsed.rejected) == (0, 1)


def test_no_objects_is_a_phrase_and_its_spelling_is_noted() -> None:
    assert answer("No Objects").no_objects and answer("No Objects").well_formed
    assert answer(" 'no objects.' ").no_objects and answer("no objects").forgiven == ("spelling of No Objects",)
    assert not answer("No Objects here").no_objects


@pytest.mark.parametrize(
    ("text", "thinking", "thought", "found", "notes"),
    [
        ("<think>a</think><answer>b</answer>", True, "a", "b", ()),
        ("<answer>b</answer>", True, None, "b", ("no thinking",)),
        ("<think>\u200b .</think><answer>b</answer>", True, "\u200b .", "b", ("no thinking",)),
        ("<think>a</think><answer>b</answer>", False, "a", "b", ("unasked thinking",)),
        ("<think>a</think><answer>b", True, "a", "b", ("answer not closed",)),
        ("<think>a</think>b", True, "a", None, ()),
        ("so <think>a</think><answer>b</answer>", True, "a", "b", ("text outside the tags",)),
        ("<think>a</think><answer>b</answer>" + " " * MAX_BLANKS, True, "a", "b", ()),
        ("<think>a</think><answer>b</answer>" + " " * (MAX_BLANKS + 1), True, "a", "b", ("text outside the tags",)),
        ("<think>a</think><answer>b</answer><answer>c</answer>", True, "a", "b",
         ("repeated tags", "text outside the tags")),
    ],
)  # fmt: skip
def test_tags(text: str, thinking: bool, thought: str | None, found: str | None, notes: tuple) -> None:
    assert split_tags(text, thinking) == (thought, found, notes)


def test_names_need_a_letter_and_print() -> None:
    assert parse_classification(prompts.completion(" 737-200 ", "it flies")).name == "737-200"
    for nothing in ("", " ", "-", "?!"):
        parsed = parse_classification(prompts.completion(nothing, "hm"))
        assert parsed.name is None and parsed.forgiven == ("empty answer",)
    hidden = parse_classification(prompts.completion("hot\x1cdog", "hm"))
    assert hidden.name == "hot\x1cdog" and hidden.forgiven == ("unprintable characters",)
    assert parse_classification("hot dog").answer is None


def test_grounding_reads_one_box() -> None:
    one = parse_grounding(prompts.completion("(1,2),(3,4)", "there"))
    assert one.boxes[0].box == (1, 2, 3, 4) and one.boxes[0].confidence is None and one.well_formed
    beside = parse_grounding(prompts.completion("at (1,2),(3,4)", "there"))
    assert beside.forgiven == ("text beside the box",) and len(beside.boxes) == 1
    swapped = parse_grounding(prompts.completion("(3,4),(1,2)", "there"))
    assert not swapped.boxes and swapped.rejected == 1
    assert parse_grounding(prompts.completion("nowhere", "there")).forgiven == ("no box",)
    assert parse_grounding("no tags at all").answer is None


def test_what_was_thought_is_kept_whatever_the_answer() -> None:
    for task, parse in (("detection", parse_detection), ("grounding", parse_grounding)):
        assert parse("<think>hm</think>").thinking == "hm", task
        assert parse("nothing", False).forgiven == () and parse("nothing").forgiven == ("no thinking",), task
    for text in ("No Objects", f"[{GOOD}]"):
        assert answer(text, "hm").thinking == "hm" and answer(text).answer == text
    assert parse_classification("<think>hm</think><answer>cat</answer>").thinking == "hm"
    for text in ("nowhere", "(1,2),(3,4)"):
        parsed = parse_grounding(f"<think>hm</think><answer>{text}</answer>")
        assert (parsed.thinking, parsed.answer) == ("hm", text)


def test_a_text_may_be_as_long_as_the_limit() -> None:
    start = "<think>a</think><answer>"
    fits = start + "b" * (MAX_CHARACTERS - len(start) - len("</answer>")) + "</answer>"
    assert split_tags(fits)[2] == () and len(fits) == MAX_CHARACTERS
    thought, found, notes = split_tags(fits + " ")
    assert thought == "a" and set(found) == {"b"} and notes == ("too long",)


def test_the_first_open_answer_counts_and_a_closing_tag_closes_what_stands_before_it() -> None:
    _, found, notes = split_tags("<think>a</think><answer>b<answer>c<answer>d")
    assert (found, notes) == ("b<answer>c<answer>d", ("repeated tags", "answer not closed"))
    assert split_tags("</think>x<think>a</think><answer>b</answer>")[0] == "a"
    assert split_tags("</think>x<think>a")[0] is None
    assert split_tags("</think><answer>b</answer>")[0] is None
    assert split_tags("x" + "<answer>b</answer>")[2] == ("no thinking", "text outside the tags")


def test_limits_are_exact() -> None:
    full = f"[{', '.join([GOOD] * MAX_BOXES)}]"
    assert len(answer(full).boxes) == MAX_BOXES and answer(full).well_formed
    assert answer("[{'Position': [0, 0, 1, 1000000], 'Confidence': 1}]").rejected == 1
    brackets = "{" * (2 * MAX_BOXES) + "[" * (2 * MAX_BOXES + 1)
    assert answer(brackets).forgiven == ("broken list", "no boxes")
    with pytest.raises(ValueError, match="too many brackets"):
        parsing._json(f"[{', '.join(['{}'] * 4 * MAX_BOXES)}]")
    assert len(parsing._json(f"[{', '.join(['{}'] * (4 * MAX_BOXES - 1))}]")) == 4 * MAX_BOXES - 1


def test_a_code_fence_of_any_kind_is_taken_off() -> None:
    for kind in ("", "json", "python"):
        parsed = answer(f"```{kind}\n[{GOOD}]\n```")
        assert len(parsed.boxes) == 1 and parsed.forgiven == ("code fence",)


def test_every_box_is_looked_at_for_notes() -> None:
    odd = "{'Position': [1.5, 2, 30, 40]}"
    assert set(answer(f"[7, {GOOD}, {odd}]").forgiven) == {"no confidence", "not whole numbers"}
    assert set(answer(f"[{odd}, {{'Position': [1, 2, 3, 4], 'Confidence': 1, 'a': 1}}]").forgiven) == {
        "no confidence", "unknown keys", "not whole numbers"}
