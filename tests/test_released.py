"""The published rewards, rebuilt: every known defect at its known value."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visual_rft import released
from visual_rft.released import (
    released_classification_accuracy,
    released_classification_format,
    released_detection_confidence,
    released_detection_format,
    released_detection_iou,
    released_grounding_format,
    released_grounding_giou,
    with_math_shortcut,
)

ONE = "[{'Position': [100, 100, 300, 300], 'Confidence': 1}]"
TWO = "[{'Position': [100, 100, 300, 300], 'Confidence': 1}, {'Position': [500, 500, 700, 900], 'Confidence': 1}]"


def tagged(answer: str) -> str:
    return f"<answer>{answer}</answer>"


def said(answer: str) -> str:
    return f"<think>hm</think><answer>{answer}</answer>"


def boxes(*items: tuple[list, object]) -> str:
    return "[" + ", ".join(f"{{'Position': {box}, 'Confidence': {c}}}" for box, c in items) + "]"


def detect(text: str, solution: str = TWO) -> tuple[float, float]:
    """IoU and confidence reward."""
    columns = dict(completions=[text], solution=[tagged(solution)])
    return released_detection_iou(**columns)[0], released_detection_confidence(**columns)[0]


def classify(text: str, name: str) -> float:
    return released_classification_accuracy([text], [tagged(name)])[0]


def ground(text: str, box: str = "(100,200),(300,400)") -> float:
    return released_grounding_giou([text], [tagged(box)])[0]


# Detection ------------------------------------------------------------------------------------------------------------
A, B, FAR = [100, 100, 300, 300], [500, 500, 700, 900], [0, 900, 50, 950]


def test_by_hand() -> None:
    rough = [500, 500, 700, 740]  # IoU 0.6
    assert detect(said(boxes((rough, 0.5), (FAR, 0.2), (A, 0.9)))) == pytest.approx((1.6 / 3, 2.2 / 3))
    assert detect(said(TWO)) == (1.0, 1.0)
    assert detect(said(boxes((A, 0.7)))) == (0.5, 0.7)  # a missing box costs in one reward only
    assert released_detection_iou([said(TWO), said(ONE)], [tagged(TWO)] * 2, image=[None] * 2) == [1.0, 0.5]


def test_the_most_confident_box_chooses_first() -> None:
    close, closer = [100, 100, 300, 240], [100, 100, 300, 280]  # IoU 0.7 and 0.9 with the one true box
    assert detect(said(boxes((closer, 0.2), (close, 0.8))), ONE) == pytest.approx((0.7 / 2, 0.8))
    assert detect(said(boxes((closer, 0.8), (close, 0.2))), ONE) == pytest.approx((0.9 / 2, 0.8))
    assert detect(said(boxes((closer, 0.5), (close, 0.5))), ONE) == pytest.approx((0.9 / 2, 0.5))  # ties: as written
    wide = boxes(([0, 0, 100, 100], 1), ([0, 0, 100, 80], 1))
    assert detect(said(boxes(([0, 0, 100, 80], 0.9))), wide)[0] == 0.5  # the best free one, not the first


@pytest.mark.parametrize(
    "text",
    [
        said(TWO),
        said(TWO.replace("'", '"')),
        said(f"[{TWO}]"),
        said(f"  {TWO} "),
        TWO,
        f"{TWO}</answer>",
        said(TWO) + tagged(ONE),  # the first answer counts
        said(TWO.replace("[100, 100, 300, 300]", "[[100, 100, 300, 300]]")),
        said(TWO.replace("'Confidence': 1}", "'Confidence': 1, 'Name': 'cat'}")),
        TWO.replace(", ", ",\n").replace("900", "9\n00"),  # without tags, line breaks do no harm
    ],
)
def test_what_is_read(text: str) -> None:
    assert detect(text) == (1.0, 1.0)


@pytest.mark.parametrize(
    "answer",
    ["", "No Objects", "[]", "[1]", "{}", "[null]", "two cats", "[{}]", TWO[1:-1], TWO.replace("1}", "'1'}")]
    + [TWO.replace(", 'Confidence': 1", ""), TWO.replace("Position", "position"), f"[7, {TWO[1:]}"]
    + [TWO.replace("[100, 100, 300, 300]", other) for other in ("[1, 1]", "['1', 1, 3, 3]", "null", "[[1], 1, 3, 3]")]
    + [TWO.replace("'Confidence': 1}]", f"'Confidence': {strange}}}]") for strange in ("null", "[1]", "'a'", "9" * 400)]
    + [TWO.replace("'Confidence': 1}", "'Confidence': 1, 'Name': 'the cat's'}"), "[" * 100_000, "9" * 10_000],
)
def test_what_is_not_read_earns_nothing(answer: str) -> None:
    assert detect(said(answer)) == (0.0, 0.0)


def test_lists_are_cut_at_the_last_complete_box() -> None:
    cut = TWO[:-20]
    assert detect(said(cut)) == (0.5, 1.0) == detect(cut)
    assert detect(said(TWO[:-1])) == (0.5, 1.0)  # the last box is complete, and lost
    assert detect(said(boxes((A, 1), (B, 1), (FAR, 1))[:-9])) == (1.0, 1.0)  # only the last one
    assert detect(f"<think>hm</think><answer>{cut}") == (0.0, 0.0)  # as the length limit leaves it
    assert detect(said(TWO), TWO + " ") == (0.5, 0.5)  # a space in the solution costs it a true box
    assert detect(said(ONE), ONE + " ") == (0.0, 0.0)
    assert released_detection_iou([said(ONE)], [f"<answer>{ONE} \n"]) == [1.0]  # unless no tag closes it


def test_exact_copies_are_free() -> None:
    assert detect(said(boxes((A, 1), (B, 1), (A, 0.3), (B, 0.2), (A, 1)))) == (1.0, 1.0)
    assert detect(said(boxes((A, 0.4), (A, 0.9))), ONE) == (1.0, 0.4)  # the first copy stays
    assert detect(said(boxes((A, 1), (B, 1), ([101, 100, 300, 300], 1))))[0] == pytest.approx(2 / 3)


def test_d4_confidence_zero_on_junk_is_paid_in_full() -> None:
    assert detect(said(boxes((FAR, 0.0)))) == (0.0, 1.0)
    assert detect(said(boxes(*[([k * 50, 900, k * 50 + 40, 950], 0.0) for k in range(5)]))) == (0.0, 1.0)
    assert detect(said("[]")) == (0.0, 0.0)
    assert detect(said(boxes((FAR, 0.25)))) == (0.0, 0.75)


def test_d5_no_single_confidence_is_bounded() -> None:
    assert detect(said(boxes((A, 100), (FAR, 1.0), ([0, 0, 9, 9], 1.0))))[1] == 1.0
    assert detect(said(boxes((FAR, -100))))[1] == 1.0
    assert detect(said(boxes((A, -3))), ONE) == (1.0, 0.0)
    assert detect(said(boxes((A, "Infinity"))), ONE) == (1.0, 1.0)
    assert detect(said(boxes((A, "true"))), ONE) == (1.0, 1.0)


def test_nan_is_passed_on() -> None:
    overlap, confidence = detect(said(boxes((A, "NaN"), (B, 1))))
    assert overlap == 1.0 and math.isnan(confidence)
    assert math.isnan(detect(said(boxes((FAR, "NaN"))))[1])
    assert math.isnan(detect(said(boxes((A, "Infinity"), (FAR, "Infinity"))))[1])
    corner = boxes((A, 0.4)).replace("300]", "NaN]")
    assert detect(said(corner), ONE) == (0.0, 0.6)  # it matches nothing


def test_d6_lists_over_several_lines_are_not_read() -> None:
    lines = said(TWO.replace("}, ", "},\n"))
    assert detect(lines) == (0.0, 0.0) and detect(lines.replace("\n", "")) == (1.0, 1.0)
    assert detect(said(f"```json{TWO}```")) == (0.0, 0.0)


def test_d7_no_right_answer_where_nothing_is() -> None:
    for solution in ("[]", "No Objects"):
        assert detect(said("No Objects"), solution) == (0.0, 0.0) == detect(said("[]"), solution)
    assert detect(said(boxes((FAR, 0.0))), "[]") == (0.0, 1.0)
    assert detect(said(boxes((FAR, 0.0))), "No Objects") == (0.0, 0.0)
    assert detect(said(boxes(([1], 0.0))), "[]") == (0.0, 1.0)  # not even a box


@pytest.mark.parametrize(("height", "paid"), [(0, 0), (98, 0), (100, 0), (102, 0.51), (200, 1)])
def test_d8_nothing_up_to_one_half(height: int, paid: float) -> None:
    assert detect(said(boxes(([100, 100, 300, 100 + height], 1))), ONE)[0] == pytest.approx(paid)


def test_d8_a_box_at_one_half_leaves_the_true_box_free() -> None:
    assert detect(said(boxes(([100, 100, 300, 200], 0.9), (A, 0.5))), ONE) == pytest.approx((1 / 2, (0.1 + 0.5) / 2))


# Format ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "paid"),
    [
        (said("x"), 1), ("<think>a\nb</think>\n\n <answer>c\nd</answer>", 1), ("<think></think><answer></answer>", 1),
        (said("x") + tagged("y"), 1), (said("x") + " or " + said("y"), 1),
        ("\n" + said("x"), 0), (said("x") + "\n", 0), (tagged("x"), 0), ("", 0),
        ("<think>x</think>, <answer>y</answer>", 0), ("<answer>x</answer><think>y</think>", 0),
    ],
)
def test_d9_format(text: str, paid: float) -> None:
    for reward in (released_detection_format, released_classification_format, released_grounding_format):
        assert reward([text, text], solution=["", ""]) == [paid, paid]


# Classification -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("", "737-200"), ("-", "737-200"), ("7", "737-200"), ("737", "737-200"), ("2012", "2012 BMW M3 Coupe"),
        ("a", "abyssinian"), ("rose", "primrose"), ("747", "747-100"), ("pug, bengal, birman", "bengal"),
        ("American Bulldog", "american_bulldog"), ("a Boeing 737-200", "737-200"),
    ],
)  # fmt: skip
def test_d2_part_of_a_name_is_the_name(answer: str, name: str) -> None:
    assert classify(said(answer), name) == 1.0


def test_d2_without_tags_prose_is_searched() -> None:
    assert classify("This might be a Bengal or a pug.", "bengal") == 1.0
    assert classify("", "bengal") == 1.0
    assert classify("<think>a bengal?</think><answer>pug\n</answer>", "bengal") == 1.0  # tags on two lines are no tags
    assert classify(said("pug"), "bengal") == 0.0
    assert classify(said("american-bulldog"), "american_bulldog") == 0.0  # hyphens stay


def test_d3_a_blind_model_scores() -> None:
    names = ["2012 BMW M3 Coupe", "2012 Audi S4 Sedan", "1993 Volvo 240 Sedan"]
    for answer, right in (("BMW", 1), ("Sedan", 2), ("2012", 2), ("", 3)):
        assert sum(released_classification_accuracy([said(answer)] * 3, [tagged(name) for name in names])) == right


# Grounding ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "paid"),
    [
        ("(100,200),(300,400)", 2), ("( 100 , 200 ) , ( 300 , 400 )", 2), ("\n(100,200),\n(300,400)\n", 2),
        ("(200,200),(400,400)", 4 / 3), ("(300,400),(500,600)", 0.5), ("(300,200),(500,400)", 1),
        ("(900,900),(0,0)", 21.25), ("(300,400),(100,200)", 2), ("(1000000,1000000),(0,0)", 25_000_001),
        ("(100,200),(300,400) (100,200),(300,400)", 1), ("(100.0,200.0),(300.0,400.0)", 0), ("[100,200,300,400]", 0),
        ("(100,200)", 0), ("", 0), ("(-100,200),(300,400)", 0), ("(300,200),(100,400)", 0),
        ("(" + "9" * 400 + ",1),(2,3)", 0), ("(" + "9" * 5000 + ",1),(2,3)", 0),
    ],
)  # fmt: skip
def test_d10_d11_signed_giou_plus_one(answer: str, paid: float) -> None:
    assert ground(said(answer)) == pytest.approx(paid)
    assert isinstance(ground(said(answer)), float)


def test_answers_over_several_lines_are_found_here() -> None:
    assert ground("<think>(1,2),(3,4)</think><answer>\n(100,200),(300,400)\n</answer>") == 2.0


def test_d10_without_limit_in_both_directions() -> None:
    assert ground(said("(900,0),(0,900)")) < -2
    assert ground(said("(90000,0),(0,90000)")) < -100
    assert ground(said("( 300,200),(100,400)"), "(300,200),(100,400)") == 1.0  # an area around both below 0


def test_disjoint_boxes_earn_less_with_distance_but_never_less_than_nothing() -> None:
    paid = [ground(said(f"({x},200),({x + 100},400)")) for x in (300, 400, 600, 900, 100_000)]
    assert paid == sorted(paid, reverse=True) and paid[0] == pytest.approx(1) and 0 < paid[-1] < 0.01


def test_the_same_string_earns_two_whatever_it_says() -> None:
    assert ground(said("nonsense"), "nonsense") == 2.0 and ground("nonsense", " nonsense ") == 2.0
    assert ground(said("nonsense"), "(100,200),(300,400)") == 0.0


# The shortcut ---------------------------------------------------------------------------------------------------------
def first_y1(text: str) -> str | None:
    """What math_verify finds in the texts below: y1 of the first box, or the last number of prose."""
    words = text.replace("[", " ").replace(",", " ").split()
    numbers = [word for word in words if word.isdigit()]
    return None if not numbers else numbers[1] if "Position" in text else numbers[-1]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(parse=first_y1, verify=lambda answer, true: answer is not None and answer == true)
    monkeypatch.setitem(sys.modules, "math_verify", module)


def shortcut(text: str, solution: str) -> tuple[float, float]:
    rewards = (with_math_shortcut(reward) for reward in (released_detection_iou, released_detection_confidence))
    iou, confidence = (reward(completions=[text], solution=[tagged(solution)], image=[None])[0] for reward in rewards)
    return iou, confidence


def test_d1_the_first_y1_decides(stand_in: None) -> None:
    everything = (1.0, 1.0)
    assert shortcut(said(boxes(([400, 0, 500, 90], 0.2))), boxes(([0, 0, 1000, 1000], 1))) == everything
    assert shortcut(said(boxes((A, 0.4))), TWO) == everything  # one box of two
    assert shortcut(said("[{'Position': [227, 100, 9, 9]}]"), TWO) == everything  # no confidence, no box
    assert shortcut("the answer is 203", boxes(([227, 203, 729, 880], 1))) == everything
    assert shortcut(said(boxes(([400, 1, 500, 90], 0.2))), boxes(([0, 0, 1000, 1000], 1))) == (0.0, 0.8)
    assert shortcut([{"role": "assistant", "content": said(boxes((A, 0.4)))}], TWO) == everything


def test_d1_errors_of_the_shortcut_are_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", SimpleNamespace(parse=float, verify=None))
    assert shortcut(said(boxes((A, 0.4))), ONE) == (1.0, 0.4)
    assert shortcut("", ONE) == (0.0, 0.0)


def test_d1_needs_the_package_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    reward = with_math_shortcut(released_grounding_giou)  # no complaint yet
    assert reward.__name__ == "shortcut_released_grounding_giou"
    with pytest.raises(ImportError, match="pip install math-verify"):
        reward(["x"], ["y"])


# All of them ----------------------------------------------------------------------------------------------------------
ACCURACY = [
    released_detection_iou, released_detection_confidence, released_classification_accuracy, released_grounding_giou,
]  # fmt: skip


def test_chat_messages_are_read() -> None:
    for content in (said(TWO), [{"type": "text", "text": said(TWO)}]):
        message = [{"role": "assistant", "content": content}]
        assert released_detection_iou([message], [tagged(TWO)]) == [1.0]
        assert released_detection_format([message]) == [1.0]


@pytest.mark.parametrize("strange", [None, 7, [], [{}], [{"role": "assistant", "content": None}], {}])
def test_what_is_no_text_earns_nothing(strange: object) -> None:
    for reward in ACCURACY:
        assert reward([strange], [tagged(TWO)]) == [0.0]
        assert reward([said("x")], [strange]) == [0.0]
    assert released_detection_format([strange]) == [0.0]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), st.text(alphabet="[]{}()',:<>/answerthik0123456789 PositionConfidence\n", max_size=200))
def test_any_text_gets_a_number(text: str, likely: str) -> None:
    for attempt in (text, likely, said(text), said(likely), TWO.replace("1", text[:3])):
        for reward in [*ACCURACY, released_detection_format]:
            for solution in (tagged(TWO), likely, tagged("(1,2),(3,4)")):
                value = reward([attempt], solution=[solution])
                assert len(value) == 1 and isinstance(value[0], float)


def test_every_completion_needs_a_solution() -> None:
    for reward in ACCURACY:
        with pytest.raises(ValueError):
            reward(["x", "y"], ["z"])


def test_the_module_imports_nothing_heavy() -> None:
    code = "import sys, visual_rft.released; print(sorted({'numpy', 'torch', 'math_verify'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    assert {name for name in released.__all__ if name != "released_format"} == {
        *(reward.__name__ for reward in ACCURACY), "with_math_shortcut",
        *(f"released_{task}_format" for task in ("detection", "classification", "grounding")),
    }  # fmt: skip
