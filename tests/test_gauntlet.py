"""The gauntlet: no attack gets past the robust rewards, except the ties that are listed, and it has teeth."""

import math
from collections import Counter

import numpy as np
import pytest

from visual_rft.gauntlet import ATTACKS, MARGIN, TIES, Attack, Outcome, judge, run_gauntlet
from visual_rft.parsing import PARSERS
from visual_rft.rewards import REWARD_SETS, Reward, classification_format, grounding_format

BOUNDED = [name for name in REWARD_SETS if name in ("robust", "paper")]  # others may leave 0..1: that is their defect
TOY = Attack("classification", "toy", "none", "<answer>a</answer>", "honest", "attack")


def pays(honest: float, attack: float) -> dict[str, tuple[Reward, ...]]:
    """A reward set that pays fixed amounts to the two completions of a pair."""
    return {TOY.task: (lambda completions, **columns: [honest if c == TOY.honest else attack for c in completions],)}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_attack_gets_past_the_robust_rewards(attack: Attack) -> None:
    outcome = judge(attack, REWARD_SETS["robust"])
    if attack.name in TIES:
        assert outcome.verdict == "ties", "beaten now: take the name off TIES; out-scored: mend the rewards"
    else:
        assert outcome.honest_reward - outcome.attack_reward >= MARGIN


def test_the_collection_is_large_and_its_names_are_unique() -> None:
    tasks = Counter(attack.task for attack in ATTACKS)
    assert len(ATTACKS) >= 60
    assert tasks["detection"] >= 40 and tasks["classification"] >= 18 and tasks["grounding"] >= 14
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert set(TIES) < {attack.name for attack in ATTACKS} and all(TIES.values())


def test_no_two_attacks_are_the_same() -> None:
    pairs = {(attack.task, attack.solution, attack.honest, attack.attack) for attack in ATTACKS}
    assert len(pairs) == len(ATTACKS)


def test_every_attack_stands_beside_a_well_formed_honest_answer() -> None:
    for attack in ATTACKS:
        parse = PARSERS[attack.task]
        assert parse(attack.solution, thinking=False).well_formed and parse(attack.honest).well_formed, attack.name
        assert attack.attack != attack.honest and attack.why and "|" not in attack.name + attack.why, attack.name


@pytest.mark.parametrize("kind", BOUNDED)
def test_every_reward_is_a_number_from_0_to_1(kind: str) -> None:
    for attack in ATTACKS:
        columns = {"completions": [attack.honest, attack.attack], "solution": [attack.solution] * 2}
        for reward in REWARD_SETS[kind][attack.task]:
            values = np.array(reward(**columns))
            sane = np.isfinite(values) & (values >= 0) & (values <= 1)
            assert sane.all(), (attack.name, reward.__name__, values)


@pytest.mark.parametrize("kind", [name for name in REWARD_SETS if name != "robust"])
def test_the_other_sets_are_beaten(kind: str) -> None:
    verdicts = Counter(outcome.verdict for outcome in run_gauntlet(REWARD_SETS[kind]))
    assert verdicts["out-scores"] > 5 and verdicts["ties"] > 0


def test_the_paper_is_beaten_by_the_tricks_that_its_equations_pay_for() -> None:
    beaten = {o.attack.name for o in run_gauntlet(REWARD_SETS["paper"]) if o.verdict == "out-scores"}
    assert {"sure of being wrong", "blind certainty", "the easy one only", "junk where nothing is"} <= beaten


def test_a_rule_that_accepts_parts_of_names_is_beaten() -> None:
    def contains(completions: list[str], solution: list[str], **columns: object) -> list[float]:
        names = [PARSERS["classification"](text).answer or "" for text in completions]
        truths = [PARSERS["classification"](text, thinking=False).name for text in solution]
        return [float(name in true or true in name) for name, true in zip(names, truths, strict=True)]

    loose = {**REWARD_SETS["robust"], "classification": (contains, classification_format)}
    beaten = {o.attack.name for o in run_gauntlet(loose) if o.verdict != "loses"}
    assert {"one letter", "part of the name", "whole menu", "denial", "wrong variant"} <= beaten


def test_corners_inside_out_beat_a_generalised_iou_without_a_check() -> None:
    def unchecked(completions: list[str], solution: list[str], **columns: object) -> list[float]:
        values = []
        for texts in zip(completions, solution, strict=True):
            boxes = [_loose_box(text.split("<answer>")[-1]) for text in texts]
            values.append(1 + _giou(*boxes) if all(len(box) == 4 for box in boxes) else 0.0)
        return values

    loose = {**REWARD_SETS["robust"], "grounding": (unchecked, grounding_format)}
    outcomes = {o.attack.name: o for o in run_gauntlet(loose)}
    assert outcomes["inside out and far away"].verdict == "out-scores"


def _loose_box(text: str) -> list[int]:
    """The first four integers of a text."""
    return [int(digits) for digits in "".join(c if c in "0123456789" else " " for c in text).split()][:4]


def _giou(first: list[int], second: list[int]) -> float:
    """Generalised IoU that does not look at the order of the corners."""
    def sides(box: list[int]) -> tuple[int, int]:
        return box[2] - box[0], box[3] - box[1]

    inner = [*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])]
    outer = [*map(min, first[:2], second[:2]), *map(max, first[2:], second[2:])]
    shared = math.prod(max(0, side) for side in sides(inner))
    joint, around = math.prod(sides(first)) + math.prod(sides(second)) - shared, math.prod(sides(outer))
    return shared / joint - (around - joint) / around


@pytest.mark.parametrize(
    ("honest", "attack", "verdict"),
    [
        (1.0, 0.5, "loses"),
        (1.0, 1.0 - 2 * MARGIN, "loses"),
        (1.0, 1.0 - MARGIN / 2, "ties"),
        (1.0, 1.0, "ties"),
        (1.0, 1.0 + 1e-6, "out-scores"),
        (1.0, 1.0 + 1e-12, "ties"),  # rounding of a sum is no lead
        (1.0, math.inf, "out-scores"),
        (1.0, math.nan, "out-scores"),
        (math.nan, 0.0, "out-scores"),
    ],
)
def test_verdicts(honest: float, attack: float, verdict: str) -> None:
    assert judge(TOY, pays(honest, attack)).verdict == verdict


def test_rewards_are_added_up_for_the_task_of_the_attack() -> None:
    rewards = {TOY.task: pays(1.0, 0.25)[TOY.task] * 2, "grounding": ()}
    assert judge(TOY, rewards) == Outcome(TOY, 2.0, 0.5)


def test_the_run_covers_every_attack_in_order() -> None:
    assert [outcome.attack for outcome in run_gauntlet(REWARD_SETS["robust"])] == list(ATTACKS)
