"""Losses and their gradients: equal to what TRL's own trainers compute, by property, and by hand."""

from collections import defaultdict
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOTrainer, RLOOConfig, RLOOTrainer

from visual_rft.advantages import leave_one_out
from visual_rft.grpo import (
    LOSSES,
    average_tokens,
    cispo_objective,
    clipped_objective,
    grpo_loss,
    importance_ratio,
    kl_estimate,
    rewards_with_kl,
    rloo_loss,
)

LONGEST = 12  # tokens a completion may have; no batch here is as wide
LENGTHS = [5, 1, 8, 3, 0, 7]  # one of a single token, one that is masked as a whole


def batch(lengths: list[int], seed: int = 0) -> SimpleNamespace:
    """Random rollouts in double precision; ratios from about a third to three."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths) + 1)
    logps, moved, other = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    logps = -logps.abs() - 0.05
    advantages = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    return SimpleNamespace(
        logps=logps, old=logps + moved / 2, reference=logps + other / 2, advantages=advantages, mask=mask
    )


def rows(data: SimpleNamespace, part: slice) -> SimpleNamespace:
    return SimpleNamespace(**{name: value[part] for name, value in vars(data).items()})


def with_gradient(loss: Callable, logps: Tensor, *more: object, **options: object) -> tuple[Tensor, Tensor]:
    """Value of a loss and its gradient in the log-probabilities."""
    leaf = logps.clone().requires_grad_()
    value = loss(leaf, *more, **options)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


# TRL computes a loss in a method that asks its trainer for log-probabilities. Below it is asked by something lighter
# that answers with the tensors of the test; the code that turns them into a loss is TRL's.


def trl_loss(
    logps: Tensor, trainer: type, inputs: dict[str, Tensor], accumulated: int = 1, processes: int = 1, **options: object
) -> Tensor:
    """What `_compute_loss` of a trainer makes of log-probabilities."""
    args = dict(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    chosen = {key: options.pop(key, value) for key, value in args.items()}
    asking = SimpleNamespace(
        args=SimpleNamespace(**chosen),
        accelerator=SimpleNamespace(num_processes=processes, gather=lambda x: x, reduce=lambda x, reduction: x),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=accumulated,
        _get_per_token_logps_and_entropies=lambda *a, **fields: (logps, torch.zeros_like(logps), None),
        _metrics={"train": defaultdict(list)},
        **{"aux_loss_enabled": False, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None},
        **{"use_vllm": False, "_entropy_bonus_enabled": False, "max_completion_length": LONGEST},
        **{"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0, "importance_sampling_level": "token", **options},
    )
    ids = torch.zeros_like(inputs["completion_mask"])
    prompt = dict(prompt_ids=ids[:, :1], prompt_mask=ids[:, :1], completion_ids=ids)
    return trainer._compute_loss(asking, None, {**prompt, **inputs})


def trl_grpo(logps: Tensor, data: SimpleNamespace, old: bool, items: int | None = None, **options: object) -> Tensor:
    inputs = dict(completion_mask=data.mask, advantages=data.advantages, ref_per_token_logps=data.reference)
    inputs["num_items_in_batch"] = data.mask.sum() if items is None else torch.tensor(items)
    inputs |= {"old_per_token_logps": data.old} if old else {}
    return trl_loss(logps, GRPOTrainer, inputs, **options)


def our_grpo(logps: Tensor, data: SimpleNamespace, old: bool, **options: object) -> Tensor:
    given = dict(old_logps=data.old if old else None, reference_logps=data.reference, max_length=LONGEST)
    return grpo_loss(logps, data.advantages, data.mask, **given, **options)


def our_rloo(logps: Tensor, data: SimpleNamespace, old: bool, **options: object) -> Tensor:
    return rloo_loss(logps, data.advantages, data.mask, data.old if old else None, **options)


def assert_equal(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-14)


CLIP = {"equal": dict(epsilon=0.2), "higher": dict(epsilon=0.2, epsilon_high=0.28)}
CLIP |= {"narrow": dict(epsilon=3e-4, epsilon_high=4e-4), "delta": dict(epsilon=0.1, epsilon_high=0.3, delta=1.5)}
CAP = {"at 5": dict(epsilon_high=5.0), "at 1.1": dict(epsilon_high=1.1)}
KL = {"no KL": {}, "KL": dict(beta=0.04), "corrected KL": dict(beta=0.04, use_bias_correction_kl=True)}
CASES = [
    pytest.param(loss, level, old, bounds, kl, id=f"{loss} {level} {'old' if old else 'fresh'} {name} {term}")
    for loss, level, old in product(LOSSES, ("token", "sequence"), (False, True))
    for name, bounds in (CAP if loss == "cispo" else CLIP).items()
    for term, kl in KL.items()
]


@pytest.mark.parametrize(("loss", "level", "old", "bounds", "kl"), CASES)
def test_loss_and_gradient_are_those_of_trl(loss: str, level: str, old: bool, bounds: dict, kl: dict) -> None:
    options = dict(loss_type=loss, importance_sampling_level=level, **kl)
    theirs = {name: value for name, value in bounds.items() if name != "epsilon"}
    theirs = {"epsilon_low": bounds.get("epsilon", 0.2), "epsilon_high": bounds.get("epsilon", 0.2), **theirs}
    pulled = torch.tensor(0.0)
    for data in (batch(LENGTHS, seed) for seed in range(3)):
        mine = with_gradient(our_grpo, data.logps, data, old, **options, **bounds)
        assert_equal(mine, with_gradient(trl_grpo, data.logps, data, old, **options, **theirs))
        pulled = pulled.maximum(mine[1].abs().max())
    assert pulled > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("batches", "a_generation", "processes"), [(1, 1, 1), (2, 2, 1), (2, 4, 1), (2, 2, 2)])
def test_accumulated_gradients_are_those_of_trl(loss: str, batches: int, a_generation: int, processes: int) -> None:
    """A step of several batches; `a_generation` of them were drawn together, on several processes."""
    whole = batch([5, 1, 8, 3, 2, 7, 6, 4])
    tokens = int(whole.mask.sum())
    bound = {"epsilon_high": 5.0 if loss == "cispo" else 0.2}
    counted = LOSSES[loss] == "step"
    for start in range(0, 8, 8 // a_generation):
        part = rows(whole, slice(start, start + 8 // a_generation))
        items = dict(num_items_in_batch=torch.tensor(tokens) * batches / a_generation / processes)
        mine = with_gradient(our_grpo, part.logps, part, True, loss_type=loss, **bound, **items)
        steps = dict(items=tokens, accumulated=batches, steps_per_generation=a_generation, processes=processes)
        theirs = with_gradient(trl_grpo, part.logps, part, True, loss_type=loss, **bound, **steps)
        assert_equal(mine if counted else tuple(value / batches for value in mine), theirs)


@pytest.mark.parametrize("bounds", [{}, dict(epsilon=0.5), dict(epsilon=0.2, epsilon_high=3.0)], ids=str)
@pytest.mark.parametrize("old", [False, True])
def test_rloo_and_its_gradient_are_those_of_trl(bounds: dict, old: bool) -> None:
    low = bounds.get("epsilon", 0.2)
    options = dict(epsilon_low=low, epsilon_high=bounds.get("epsilon_high", low))
    for seed in range(5):
        data = batch(LENGTHS, seed)
        before = ((data.old if old else data.logps) * data.mask).sum(1)
        inputs = dict(completion_mask=data.mask, advantages=data.advantages, old_logps=before)
        mine = with_gradient(our_rloo, data.logps, data, old, **bounds)
        assert_equal(mine, with_gradient(trl_loss, data.logps, RLOOTrainer, inputs, **options))
        assert mine[1].abs().max() > 0


def test_the_kl_of_rloo_is_in_the_reward_as_in_trl(tmp_path) -> None:
    """TRL's trainer from the call of the reward function to the advantages, with log-probabilities of the test."""
    group, data = 4, batch([5, 1, 8, 3, 2, 7, 6, 4])
    ids = [[1] * int(row.sum()) for row in data.mask]
    width = max(map(len, ids))
    answers = [data.old[:, :width], data.reference[:, :width]]  # the trainer asks the policy, then the reference
    rewards = torch.tensor([0.5, 1, 0, 2, 0.25, 0.75, 0, 0.5], dtype=torch.float64)

    class Given(RLOOTrainer):
        def _generate(self, prompts: list) -> tuple:
            return [[1]] * len(prompts), ids, ["x"] * len(prompts)

        def _get_per_token_logps_and_entropies(self, *args, **fields) -> tuple:
            return answers.pop(0), None, None

    words = WordLevel({"<pad>": 0, "x": 1, "</s>": 2}, "x")
    size = dict(hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
    trainer = Given(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=3, pad_token_id=0, eos_token_id=2, **size)),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="</s>"
        ),
        train_dataset=Dataset.from_dict({"prompt": ["x"] * 2}),
        reward_funcs=[lambda **columns: rewards.tolist()],
        args=RLOOConfig(
            str(tmp_path), per_device_train_batch_size=8, num_generations=group, normalize_advantages=False,
            report_to="none", bf16=False, use_cpu=True, beta=0.0,
        ),
    )
    trainer.beta, trainer.ref_model = 0.04, trainer.model
    torch.set_default_dtype(torch.float64)
    try:
        theirs = trainer._generate_and_score_completions([{"prompt": "x"}] * 8)["advantages"]
    finally:
        torch.set_default_dtype(torch.float32)
    paid = rewards_with_kl(rewards, data.old, data.reference, data.mask, beta=0.04)
    assert answers == [] and not torch.allclose(paid, rewards)
    ours = torch.from_numpy(leave_one_out(paid, group))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


RECIPES = [
    *(dict(loss_type=name) for name in LOSSES if name != "cispo"),
    dict(loss_type="cispo", epsilon_high=5.0),
    dict(loss_type="grpo", importance_sampling_level="sequence", epsilon=3e-4, epsilon_high=4e-4),
    dict(loss_type="dapo", epsilon_high=0.28, delta=2.0),
]
SUITS = [*RECIPES, dict(loss_type="grpo", beta=0.04), dict(loss_type="dapo", beta=0.04, use_bias_correction_kl=True)]
ragged = st.lists(st.integers(0, LONGEST - 4), min_size=2, max_size=5)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("recipe", [*RECIPES, None], ids=str)
@given(lengths=ragged, seed=seeds, silent=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_a_row_without_advantage_has_no_gradient(recipe: dict | None, lengths: list, seed: int, silent: int) -> None:
    data, silent = batch(lengths, seed), silent % len(lengths)
    data.advantages[silent] = 0
    for old in (False, True):
        loss = our_rloo if recipe is None else our_grpo
        _, gradient = with_gradient(loss, data.logps, data, old, **recipe or {})
        assert (gradient[silent] == 0).all()
        if not old:  # and every other token has one
            loud = data.mask.bool() & (data.advantages != 0)[:, None]
            assert (gradient[loud] != 0).all()


@pytest.mark.parametrize("recipe", [*SUITS, None], ids=str)
@given(lengths=ragged, seed=seeds, more=st.integers(0, 3), padding=st.floats(-50, 0))
@settings(max_examples=25, deadline=None)
def test_padding_changes_nothing(recipe: dict | None, lengths: list, seed: int, more: int, padding: float) -> None:
    data = batch(lengths, seed)
    width = data.mask.shape[1] + more
    place = torch.arange(width).expand(len(lengths), width)
    wide = SimpleNamespace(advantages=data.advantages, mask=(place < torch.tensor(lengths)[:, None]).long())
    for number, name in enumerate(("logps", "old", "reference")):
        filled = torch.full((len(lengths), width), padding / (number + 1), dtype=torch.float64)
        filled[:, : data.mask.shape[1]] = torch.where(data.mask == 1, getattr(data, name), filled[:, :1])
        setattr(wide, name, filled)
    loss = our_rloo if recipe is None else our_grpo
    results = [with_gradient(loss, d.logps, d, True, **recipe or {}) for d in (data, wide)]
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(results[1][1][:, : data.mask.shape[1]], results[0][1], rtol=1e-12, atol=1e-14)
    assert (results[1][1][wide.mask == 0] == 0).all()
    if recipe is None:
        paid = [rewards_with_kl(d.advantages, d.old, d.reference, d.mask, 0.1) for d in (data, wide)]
        torch.testing.assert_close(*paid, rtol=1e-12, atol=1e-14)


@given(values=st.lists(st.floats(-30, 30), min_size=1, max_size=20))
@example(values=[1e-8, -1e-8, 1e-7, -1e-7])  # exp(d) - d - 1 would lose them to rounding
@settings(max_examples=300, deadline=None)
def test_k3_is_never_negative(values: list[float]) -> None:
    d = torch.tensor([values], dtype=torch.float64)
    estimate = kl_estimate(torch.zeros_like(d), d)
    assert (estimate >= 0).all() and (estimate[d.abs() > 1e-9] > 0).all()


def test_k3_is_exact_near_zero() -> None:
    d = torch.tensor([[1e-4]])  # 32 bits: exp(d) - d - 1 would be 0 or 24 times too much
    torch.testing.assert_close(kl_estimate(torch.zeros_like(d), d), d**2 / 2, rtol=2e-3, atol=0)


@pytest.fixture(params=range(5))
def categorical(request: pytest.FixtureRequest) -> SimpleNamespace:
    """A vocabulary of six tokens: scores of the policy, and both distributions' logarithms."""
    generator = torch.Generator().manual_seed(request.param)
    scores, other = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    scores = scores.requires_grad_()
    return SimpleNamespace(scores=scores, policy=scores.log_softmax(-1), reference=other.log_softmax(-1))


def kl(one: Tensor, other: Tensor) -> Tensor:
    return (one.exp() * (one - other)).sum()


def mean_estimate(c: SimpleNamespace, kind: str, corrected: bool = False) -> Tensor:
    """The estimate averaged over every token that can be drawn; the draws do not depend on the scores."""
    ratio = importance_ratio(c.policy[None], c.policy.detach()[None], torch.ones(1, 6))[0] if corrected else None
    return (c.policy.detach().exp() * kl_estimate(c.policy, c.reference, kind, ratio)).sum()


def test_k1_and_k3_are_unbiased(categorical: SimpleNamespace) -> None:
    exact = kl(categorical.policy, categorical.reference)
    for kind, corrected in product(("k1", "k3"), (False, True)):
        torch.testing.assert_close(mean_estimate(categorical, kind, corrected), exact, rtol=1e-12, atol=0)
    assert not torch.isclose(mean_estimate(categorical, "k2"), exact, rtol=1e-2)


def test_gradients_of_the_estimates(categorical: SimpleNamespace) -> None:
    c = categorical
    wanted, reverse = kl(c.policy, c.reference), kl(c.reference, c.policy)
    wanted, reverse = (torch.autograd.grad(value, c.scores, retain_graph=True)[0] for value in (wanted, reverse))
    pairs = {("k1", False): 0 * wanted, ("k2", False): wanted, ("k3", False): reverse, ("k3", True): wanted}
    for (kind, corrected), gradient in pairs.items():
        value = mean_estimate(c, kind, corrected)
        found = torch.autograd.grad(value, c.scores, retain_graph=True)[0]
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)


def test_k2_by_hand() -> None:
    values = [kl_estimate(torch.tensor([[-1.0]]), torch.tensor([[-3.0]]), kind).item() for kind in ("k1", "k2")]
    assert values == [2, 2]
    assert kl_estimate(torch.tensor([[-1.0]]), torch.tensor([[-2.0]]), "k2").item() == 0.5


def test_without_old_log_probabilities_the_policy_is_its_own() -> None:
    data = batch(LENGTHS)
    for recipe in RECIPES:
        fresh = with_gradient(our_grpo, data.logps, data, False, **recipe)
        same = SimpleNamespace(**{**vars(data), "old": data.logps})
        assert_equal(fresh, with_gradient(our_grpo, data.logps, same, True, **recipe))


@pytest.mark.parametrize("loss", [name for name, average in LOSSES.items() if average == "step"])
def test_batches_of_a_step_add_up_to_the_step(loss: str) -> None:
    whole = batch([5, 1, 8, 3, 2, 7])
    options = dict(loss_type=loss, epsilon_high=5.0)
    parts = [rows(whole, slice(0, 2)), rows(whole, slice(2, 6))]
    total = sum(our_grpo(p.logps, p, True, num_items_in_batch=whole.mask.sum(), **options) for p in parts)
    torch.testing.assert_close(total, our_grpo(whole.logps, whole, True, **options))


WEIGHTS = {  # of one token of a completion of 3 and of 12 tokens, alone in a batch of two; L = 24
    "grpo": [1 / 6, 1 / 24],
    "dr_grpo": [1 / 48, 1 / 48],
    "dapo": [1 / 15, 1 / 15],
    "bnpo": [1 / 15, 1 / 15],
    "cispo": [1 / 15, 1 / 15],
}


@pytest.mark.parametrize("loss", WEIGHTS)
def test_token_weights_by_hand(loss: str) -> None:
    mask = (torch.arange(12) < torch.tensor([[3], [12]])).double()
    ones = torch.ones(2, dtype=torch.float64)
    for level in ("token", "sequence") if loss == "grpo" else ("token",):  # GSPO weighs fresh tokens as GRPO does
        options = dict(loss_type=loss, importance_sampling_level=level, epsilon_high=5.0, max_length=24)
        _, gradient = with_gradient(grpo_loss, 0 * mask, ones, mask, **options)
        torch.testing.assert_close(-gradient[:, 0], torch.tensor(WEIGHTS[loss], dtype=torch.float64))


@pytest.mark.parametrize("average", ["completion", "token", "step", "constant"])
def test_averages_of_a_lone_token_and_of_none(average: str) -> None:
    value = torch.tensor([[7.0, 5.0]])
    assert average_tokens(value, torch.tensor([[1, 0]]), average, max_length=1) == 7
    assert average_tokens(value, torch.tensor([[0, 0]]), average, max_length=1) == 0


def test_the_constant_is_the_width_when_it_is_not_given() -> None:
    data = batch(LENGTHS)
    given = (data.logps, data.advantages, data.mask, data.old)
    loss, width = grpo_loss(*given, loss_type="dr_grpo"), data.mask.shape[1]
    assert loss == grpo_loss(*given, loss_type="dr_grpo", max_length=width) != 0


def test_an_average_may_replace_that_of_the_loss() -> None:
    data = batch(LENGTHS)
    for loss, average in LOSSES.items():
        bound = {"epsilon_high": 5.0} if loss == "cispo" else {}
        own = our_grpo(data.logps, data, True, loss_type=loss, **bound)
        base = "cispo" if loss == "cispo" else "grpo"
        assert own == our_grpo(data.logps, data, True, loss_type=base, average=average, **bound)


DATA = batch([2, 3])
FIELDS = dict(logps=DATA.logps, advantages=DATA.advantages, mask=DATA.mask)
LEVEL = dict(importance_sampling_level="word")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: grpo_loss(**FIELDS, loss_type="ppo"), "grpo, dr_grpo, dapo, bnpo, cispo, not 'ppo'"),
        (lambda: grpo_loss(**FIELDS, **LEVEL), "token or sequence, not 'word'"),
        (lambda: grpo_loss(**FIELDS, average="mean"), "completion, token, step or constant, not 'mean'"),
        (lambda: grpo_loss(**FIELDS, beta=0.1), "beta is 0.1, so the KL term needs reference_logps"),
        (lambda: grpo_loss(**FIELDS, loss_type="cispo"), "epsilon_high of cispo is the largest ratio itself"),
        (lambda: grpo_loss(**FIELDS, loss_type="cispo", epsilon_high=5.0, delta=6.0), "cispo has no delta"),
        (lambda: grpo_loss(**FIELDS, loss_type="dr_grpo", max_length=0), "at least 1, not 0"),
        (lambda: grpo_loss(**{**FIELDS, "advantages": DATA.advantages[:, None]}), "2 completions need as many"),
        (lambda: grpo_loss(**{**FIELDS, "advantages": DATA.advantages[:1]}), r"not \(1,\)"),
        (lambda: grpo_loss(**{**FIELDS, "mask": DATA.mask[:, :2]}), "tables .B, T. of one shape"),
        (lambda: grpo_loss(**{**FIELDS, "logps": DATA.logps[0], "mask": DATA.mask[0]}), "tables .B, T. of one shape"),
        (lambda: grpo_loss(**FIELDS, old_logps=DATA.old[:1]), "of one shape"),
        (lambda: grpo_loss(**FIELDS, reference_logps=DATA.old[:, :1]), "of one shape"),
        (lambda: rloo_loss(**FIELDS, old_logps=DATA.old[:, 0]), "of one shape"),
        (lambda: rewards_with_kl(DATA.advantages[:1], DATA.old, DATA.old, DATA.mask, 0.1), "2 completions need"),
        (lambda: rewards_with_kl(DATA.advantages, DATA.old, DATA.old[:, :1], DATA.mask, 0.1), "of one shape"),
        (lambda: clipped_objective(DATA.old, DATA.advantages, delta=1.2), "delta lies above .* 1.2; 1.2 does not"),
        (lambda: clipped_objective(DATA.old, DATA.advantages, epsilon=-0.1), "not negative, unlike -0.1"),
        (lambda: clipped_objective(DATA.old, DATA.advantages, epsilon=-0.1, epsilon_high=0.3), "not negative"),
        (lambda: clipped_objective(DATA.old, DATA.advantages, epsilon_high=-0.1), "not negative"),
        (lambda: cispo_objective(DATA.old, DATA.old, DATA.advantages, 0.28), "such as 5, not 0.28"),
        (lambda: kl_estimate(DATA.old, DATA.old, "k4"), "k1, k2 or k3, not 'k4'"),
        (lambda: average_tokens(DATA.old, DATA.mask, "constant", max_length=-1), "at least 1, not -1"),
    ],
)
def test_what_cannot_be_computed_is_refused(call: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_cispo_takes_a_bound_of_one() -> None:
    assert torch.isfinite(grpo_loss(**FIELDS, loss_type="cispo", epsilon_high=1.0))
