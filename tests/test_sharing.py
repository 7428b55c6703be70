"""Sharing image and prompt across a group changes nothing but the time."""

import pytest
import torch
from datasets import Dataset
from transformers import GenerationConfig
from trl import GRPOTrainer

from visual_rft import miniature
from visual_rft.grpo import grpo_loss
from visual_rft.rollouts import (
    Sampling,
    completion_logps,
    encode_prompts,
    group_rows,
    sample,
    stop_tokens,
    vision_tokens,
)
from visual_rft.settings import GRPOSettings
from visual_rft.trainer import VisualGRPOTrainer, chat_rows, distinct_rows, grpo_config, split_images


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return miniature.test_rows(count=6, negatives=0)


def inputs_for(processor, rows, dtype=torch.float32):
    inputs = encode_prompts(processor, rows["problem"], rows["image"])
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    return inputs


def padded(completions: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, completions))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in completions])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in completions])
    return ids, mask


def ragged_group(processor, count: int, group: int) -> list[list[int]]:
    """Completions of different lengths, one of them a single token."""
    texts = [
        "<think> I see hot dog. </think><answer>No Objects</answer>",
        "<answer>[{'Position': [1, 2, 30, 40]",
        "",
        "cat",
    ]
    ids = [processor.tokenizer(texts[i % 4] + "<|im_end|>")["input_ids"] for i in range(count * group)]
    return [row[: len(row) - i % 2] or row for i, row in enumerate(ids)]


def naive_logps(model, processor, row, ids: list[int], dtype) -> torch.Tensor:
    """One row by itself through the stock model."""
    one = inputs_for(processor, row, dtype)
    start, tail = one["input_ids"].shape[1], torch.tensor([ids])
    whole = torch.cat([one["input_ids"], tail], dim=1)
    kinds = torch.cat([one["mm_token_type_ids"], torch.zeros_like(tail)], dim=1)
    logits = (
        model(
            input_ids=whole,
            attention_mask=torch.ones_like(whole),
            mm_token_type_ids=kinds,
            pixel_values=one["pixel_values"],
            image_grid_thw=one["image_grid_thw"],
        )
        .logits[0, start - 1 : -1]
        .float()
    )
    return torch.log_softmax(logits, -1).gather(-1, tail[0][:, None])[:, 0]


def test_logps_and_gradients_equal_the_naive_path(tiny, rows) -> None:
    model, processor = tiny
    model = model.double()
    try:
        part, group = rows.select([0, 1, 2]), 3
        completions = ragged_group(processor, 3, group)
        ids, mask = padded(completions, processor.tokenizer.pad_token_id)
        advantages = torch.tensor([1.0, -0.5, 0.25] * 3, dtype=torch.float64)
        shared = completion_logps(model, inputs_for(processor, part[:], torch.float64), ids, group_rows(3, group))
        grpo_loss(shared, advantages, mask).backward()
        ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        each = [
            naive_logps(model, processor, part[i // group : i // group + 1], row, torch.float64)
            for i, row in enumerate(completions)
        ]
        naive = torch.stack([torch.cat([v, v.new_zeros(ids.shape[1] - len(v))]) for v in each])
        grpo_loss(naive, advantages, mask).backward()
        assert torch.allclose(shared * mask, naive * mask, atol=1e-6)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                scale = parameter.grad.abs().max().clamp(min=1e-9)
                assert ((ours[name] - parameter.grad).abs().max() / scale) < 1e-4, name
    finally:
        model.zero_grad()
        model.float()


def test_greedy_sampling_equals_generate(tiny, rows) -> None:
    model, processor = tiny
    inputs = inputs_for(processor, rows.select(range(3))[:])
    ours = sample(model, inputs, 1, Sampling(max_new_tokens=12, temperature=0))
    config = GenerationConfig(
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=stop_tokens(model),
        pad_token_id=0,
        suppress_tokens=vision_tokens(model),
    )
    theirs = model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :].tolist()
    assert ours == [row[: len(mine)] for row, mine in zip(theirs, ours)]


def test_sampling_repeats_with_its_generator_and_never_draws_vision_tokens(tiny, rows) -> None:
    model, processor = tiny
    inputs = inputs_for(processor, rows.select(range(2))[:])
    draws = [sample(model, inputs, 4, Sampling(max_new_tokens=40), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2] and len(draws[0]) == 8
    assert not {token for row in draws[0] + draws[2] for token in row} & set(vision_tokens(model))


def test_rows_that_stopped_leave_and_the_others_go_on(tiny, rows, monkeypatch) -> None:
    model, processor = tiny
    inputs = inputs_for(processor, rows.select(range(3))[:])
    full = sample(model, inputs, 1, Sampling(max_new_tokens=10, temperature=0))
    stop = full[0][2]  # pretend that this token ends a completion
    monkeypatch.setattr("visual_rft.rollouts.stop_tokens", lambda model: [stop])
    short = sample(model, inputs, 1, Sampling(max_new_tokens=10, temperature=0))
    for mine, whole in zip(short, full):
        cut = whole.index(stop) + 1 if stop in whole else len(whole)
        assert mine == whole[:cut]


def test_top_k_and_top_p_narrow_the_choice(tiny, rows) -> None:
    model, processor = tiny
    inputs = inputs_for(processor, rows.select([0])[:])
    greedy = sample(model, inputs, 1, Sampling(max_new_tokens=6, temperature=0))[0]
    for narrow in (Sampling(6, top_k=1), Sampling(6, top_p=1e-6)):
        assert sample(model, inputs, 2, narrow) == [greedy, greedy]


def test_distinct_rows_look_at_text_and_picture() -> None:
    prompts = torch.tensor([[1, 2], [1, 2], [1, 2], [3, 4]])
    pixels, grids = torch.arange(16.0).view(4, 4), torch.tensor([[1, 1, 1]] * 4)
    pixels[1] = pixels[0]
    first, number = distinct_rows(prompts, split_images(pixels, grids, [1] * 4))
    assert first == [0, 2, 3] and number.tolist() == [0, 0, 1, 2]


def test_the_trainer_equals_trl(tiny, rows, tmp_path) -> None:
    """The same batch through TRL's log-probabilities and through ours."""
    model, processor = tiny
    settings = GRPOSettings(steps=1, prompts=2, group=2, max_completion_length=8)
    trainer = VisualGRPOTrainer(
        model=model,
        processing_class=processor,
        train_dataset=chat_rows(rows),
        args=grpo_config(settings, tmp_path),
        reward_funcs=[lambda completions, **columns: [float(len(str(c))) for c in completions]],
    )
    seen = {}
    original = VisualGRPOTrainer._get_per_token_logps_and_entropies

    def both(self, model, ids, mask, keep, *args, **fields):
        ours = original(self, model, ids, mask, keep, *args, **fields)
        theirs = GRPOTrainer._get_per_token_logps_and_entropies(self, model, ids, mask, keep, *args, **fields)
        seen["gap"] = ((ours[0] - theirs[0]) * mask[:, -keep:]).abs().max().item()
        seen["entropy gap"] = ((ours[1] - theirs[1]) * mask[:, -keep:]).abs().max().item()
        return ours

    VisualGRPOTrainer._get_per_token_logps_and_entropies = both
    try:
        trainer.train()
    finally:
        VisualGRPOTrainer._get_per_token_logps_and_entropies = original
    assert seen["gap"] < 1e-4 and seen["entropy gap"] < 1e-3


def test_trl_still_has_the_methods_that_are_overridden() -> None:
    """Notices when a new TRL changes what the subclass relies on."""
    import inspect

    turn = list(inspect.signature(GRPOTrainer._generate_single_turn).parameters)
    logps = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert turn == ["self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"]
    assert logps[:8] == [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
    ]
    assert {"pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids"} <= set(logps)
