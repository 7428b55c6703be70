"""Advantages: by hand, by property, and as TRL's own trainers compute them from the same rewards."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from visual_rft.advantages import decoupled_advantages, group_advantages, has_signal, leave_one_out, total_reward

PROMPTS, GROUP, WEIGHTS = 3, 4, [1.0, 0.5, 2.0]
COMPLETIONS = PROMPTS * GROUP

Table = list[list[float | None]]  # (functions, completions)
Trainer = Callable[[Table], tuple[np.ndarray, float]]  # to TRL's advantages and its share of silent groups

number = st.integers(-32, 32).map(lambda n: n / 16)  # exact in 32 bits, TRL's precision for rewards
finite_tables = st.lists(
    st.lists(number, min_size=COMPLETIONS, max_size=COMPLETIONS), min_size=len(WEIGHTS), max_size=len(WEIGHTS)
)
tables = st.lists(
    st.lists(st.none() | number, min_size=COMPLETIONS, max_size=COMPLETIONS),
    min_size=len(WEIGHTS), max_size=len(WEIGHTS),
)

NOTHING = [None] * GROUP
AWKWARD = [
    [0.5, 0.5, 0.5, 0.5 + 2**-13, *NOTHING, None, None, 2.0, None],  # a gap as small as epsilon; one verdict
    [1.0, 1.0, 1.0, 1.0, *NOTHING, None, None, 1.0, None],  # no spread
    [0.0, 1.0, None, 1.0, *NOTHING, None, None, None, None],  # a group and three more that nobody judged
]


# TRL computes advantages in the middle of a long method. The trainers below are TRL's, from the call of the reward
# functions to the advantages; only the sampling of completions is replaced, and the model is as small as can be.


class GivenGRPO(GRPOTrainer):
    def _generate(self, prompts: list) -> tuple:
        ids = [[1]] * len(prompts)
        return ids, ids, None, ["x"] * len(prompts), None, {}, None, None


class GivenRLOO(RLOOTrainer):
    def _generate(self, prompts: list) -> tuple:
        ids = [[1]] * len(prompts)
        return ids, ids, ["x"] * len(prompts)


def trl(trainer: type, config: type, folder: str, **options: object) -> Trainer:
    """A function from a table of rewards to what a trainer of TRL makes of it, in double precision."""
    table = []
    words = WordLevel({"<pad>": 0, "x": 1, "</s>": 2}, "x")
    size = dict(hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
    built = trainer(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=3, pad_token_id=0, eos_token_id=2, **size)),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="</s>"
        ),
        train_dataset=Dataset.from_dict({"prompt": ["x"] * PROMPTS}),
        reward_funcs=[lambda number=number, **columns: table[number] for number in range(len(WEIGHTS))],
        args=config(
            folder, per_device_train_batch_size=COMPLETIONS, num_generations=GROUP, reward_weights=WEIGHTS, beta=0.0,
            report_to="none", bf16=False, use_cpu=not torch.cuda.is_available(), **options,
        ),
    )

    def compute(rewards: Table) -> tuple[np.ndarray, float]:
        table[:] = rewards
        torch.set_default_dtype(torch.float64)
        try:
            output = built._generate_and_score_completions([{"prompt": "x"}] * COMPLETIONS)
        finally:
            torch.set_default_dtype(torch.float32)
        assert output["advantages"].dtype == torch.float64
        return output["advantages"].cpu().numpy(), built._metrics["train"]["frac_reward_zero_std"][-1]

    return compute


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trainer]:
    folder = str(tmp_path_factory.mktemp("trl"))
    sum_first = {scale: trl(GivenGRPO, GRPOConfig, folder, scale_rewards=scale) for scale in ("group", "batch", "none")}
    spread_first = trl(GivenGRPO, GRPOConfig, folder, multi_objective_aggregation="normalize_then_sum")
    others = trl(GivenRLOO, RLOOConfig, folder, normalize_advantages=False)
    return {**sum_first, "decoupled": spread_first, "leave one out": others}


OURS = {
    "group": lambda table: group_advantages(total_reward(table, WEIGHTS), GROUP),
    "batch": lambda table: group_advantages(total_reward(table, WEIGHTS), GROUP, "batch"),
    "none": lambda table: group_advantages(total_reward(table, WEIGHTS), GROUP, "none"),
    "decoupled": lambda table: decoupled_advantages(table, GROUP, WEIGHTS),
    "leave one out": lambda table: leave_one_out(total_reward(table, WEIGHTS), GROUP),
}


@pytest.mark.parametrize("kind", OURS)
@given(table=tables)
@example(table=AWKWARD)
@settings(max_examples=25, deadline=None)
def test_advantages_are_those_of_trl(trainers: dict[str, Trainer], kind: str, table: Table) -> None:
    expected, _ = trainers[kind](table)
    assert np.allclose(OURS[kind](table), expected, rtol=0, atol=1e-9)


@given(table=finite_tables)
@example(table=[[0.25] * COMPLETIONS] * len(WEIGHTS))
@settings(max_examples=10, deadline=None)
def test_silent_groups_are_those_of_trl(trainers: dict[str, Trainer], table: Table) -> None:
    _, silent = trainers["group"](table)
    assert has_signal(total_reward(table, WEIGHTS), GROUP).mean() == pytest.approx(1 - silent)


BY_HAND = {
    "group": [1.5, 0.5, -0.5, -1.5] / np.sqrt(5 / 3),
    "batch": [1.5, 0.5, -0.5, -1.5] / np.sqrt(5 / 7),
    "none": [1.5, 0.5, -0.5, -1.5],
}


@pytest.mark.parametrize("scale", BY_HAND)
def test_advantages_by_hand(scale: str) -> None:
    advantages = group_advantages([3, 2, 1, 0, 1.5, 1.5, 1.5, 1.5], 4, scale)
    assert np.allclose(advantages, [*BY_HAND[scale], 0, 0, 0, 0], rtol=2e-4)


def test_decoupled_advantages_by_hand() -> None:
    wins = [[0, 1, 0, 1], [0, 0, 0, 1]]
    assert np.allclose(decoupled_advantages(wins, 2), np.array([-1, 1, -2, 2]) * np.sqrt(0.3), rtol=5e-4)
    assert np.allclose(decoupled_advantages(wins, 2, [1, 0]), np.array([-1, 1, -1, 1]) * np.sqrt(0.75), rtol=5e-4)


def test_leave_one_out_by_hand() -> None:
    assert np.allclose(leave_one_out([3, 2, 1, 0], 4), [2, 2 / 3, -2 / 3, -2])


@pytest.mark.parametrize("scale", BY_HAND)
def test_completions_without_a_verdict_are_left_out(scale: str) -> None:
    gaps = group_advantages([3, None, 1, 0, None, 2, 2, 5], 4, scale)
    assert np.allclose(np.delete(gaps, [1, 4]), group_advantages([3, 1, 0, 2, 2, 5], 3, scale))
    assert gaps[[1, 4]].tolist() == [0, 0]
    assert np.allclose(leave_one_out([3, None, 1, 0], 4), [2.5, 0, -0.5, -2])


def test_none_is_left_out_of_the_sum_and_is_no_zero_where_nobody_judged() -> None:
    total = total_reward([[0.5, None, None, None], [1, 1, None, 0]], [2, 3])
    assert np.array_equal(total, [4, 3, np.nan, 0], equal_nan=True)


def test_a_function_that_does_not_apply_changes_nothing() -> None:
    rewards = [[1, 0.5, 0, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 1, 0, 1]]
    assert np.array_equal(decoupled_advantages([*rewards, [None] * 8], 4), decoupled_advantages(rewards, 4))
    assert np.array_equal(total_reward([*rewards, [None] * 8]), total_reward(rewards))


@pytest.mark.parametrize("value", [0, 0.1, 7, None])
def test_equal_groups_teach_nothing(value: float | None) -> None:
    equal = [value] * 4
    assert has_signal([*equal, 0, 0, 1, 0], 4).tolist() == [False, True]
    assert np.allclose(group_advantages(equal, 4), 0) and np.allclose(leave_one_out(equal, 4), 0)
    assert np.allclose(decoupled_advantages([equal, equal], 4), 0)


def test_a_lone_verdict_is_no_signal() -> None:
    lone = [None, 5, None, None]
    assert has_signal([*lone, None, 5, 4, None], 4).tolist() == [False, True]
    assert not group_advantages(lone, 4).any() and not leave_one_out(lone, 4).any()
    assert not decoupled_advantages([lone], 4).any()


@given(table=tables)
@settings(max_examples=25, deadline=None)
def test_groups_add_up_to_zero(table: Table) -> None:
    for kind, ours in OURS.items():
        assert np.allclose(ours(table).reshape(-1, GROUP).sum(1), 0, atol=1e-6), kind


def test_normalising_first_makes_units_and_offsets_irrelevant() -> None:
    rewards = np.array([[0.9, 0.8, 0.7, 0.6, 0.1, 0.5, 0.2, 0.9], [0, 1, 1, 1, 1, 1, 0, 1]])
    other = rewards * [[1000], [10]] + [[5], [-3]]
    assert np.allclose(decoupled_advantages(other, 4), decoupled_advantages(rewards, 4), atol=2e-3)
    summed = [group_advantages(total_reward(table), 4) for table in (rewards, other)]
    assert np.abs(summed[0] - summed[1]).max() > 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: group_advantages([1, 2, 3], 2), "3 rewards do not split into groups of 2"),
        (lambda: group_advantages([1, 2], 1), "at least 2"),
        (lambda: group_advantages([1, 2], 2, "global"), "group, batch or none"),
        (lambda: group_advantages([1, float("inf")], 2), "infinite"),
        (lambda: has_signal([1, 2, 3], 2), "3 rewards do not split"),
        (lambda: leave_one_out([1, 2, 3], 2), "3 rewards do not split"),
        (lambda: decoupled_advantages([[1, 2, 3], [4, 5, 6]], 2), "3 rewards do not split"),
        (lambda: decoupled_advantages([1, 2, 3, 4], 2), "functions, completions"),
        (lambda: decoupled_advantages([[1, 2]], 2, [1, 1]), "1 reward functions need as many weights"),
        (lambda: total_reward([1, 2, 3]), "functions, completions"),
    ],
)
def test_wrong_shapes_and_values_are_errors(call: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
