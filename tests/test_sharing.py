"""Sharing image and prompt across a group changes nothing but the time: sampling and log-probabilities."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

from visual_rft import miniature, packing
from visual_rft.packing import completion_logps
from visual_rft.rollouts import Sampling, encode_prompts, group_rows, sample, stop_tokens, vision_tokens
from visual_rft.trainer import distinct_rows, split_images


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


def naive_logits(model, processor, row, ids: list[int], dtype) -> torch.Tensor:
    """(T, V) one row by itself through the stock model."""
    one = inputs_for(processor, row, dtype)
    start, tail = one["input_ids"].shape[1], torch.tensor([ids])
    whole = torch.cat([one["input_ids"], tail], dim=1)
    kinds = torch.cat([one["mm_token_type_ids"], torch.zeros_like(tail)], dim=1)
    out = model(input_ids=whole, attention_mask=torch.ones_like(whole), mm_token_type_ids=kinds,
                pixel_values=one["pixel_values"], image_grid_thw=one["image_grid_thw"])
    return out.logits[0, start - 1 : -1]


def naive_logps(model, processor, row, ids: list[int]) -> torch.Tensor:
    """(T,) log-probabilities of one completion."""
    logits = naive_logits(model, processor, row, ids, torch.float64)
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[:, None])[:, 0]


@pytest.fixture
def exact(tiny):
    """A tiny model in double precision, and its processor."""
    model, processor = tiny
    yield model.double(), processor
    model.zero_grad()
    model.float()


def shared_and_naive(model, processor, part, group: int = 3) -> list[dict]:
    """The (B, T) log-probabilities and all gradients of a loss: packed, and one row after the other."""
    completions = ragged_group(processor, len(part), group)
    ids, mask = padded(completions, processor.tokenizer.pad_token_id)
    inputs = inputs_for(processor, part[:], torch.float64)
    rows_of, weights = group_rows(len(part), group), torch.linspace(-1, 1, mask.sum(), dtype=torch.float64)
    found = []
    for packed in (True, False):
        if packed:
            logps = completion_logps(model, inputs, ids, rows_of, mask.sum(1))[mask.bool()]
        else:
            rows = [part.select([i // group]) for i in range(len(completions))]
            logps = torch.cat([naive_logps(model, processor, *one) for one in zip(rows, completions)])
        model.zero_grad()
        (weights * logps).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append(dict(gradients, logps=logps.detach()))
    return found


def largest_gap(ours: dict, theirs: dict) -> float:
    """The largest difference of any tensor, relative to its largest entry."""
    assert ours.keys() == theirs.keys()
    gaps = [(ours[name] - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-9) for name in theirs]
    return max(gap.item() for gap in gaps)


def test_logps_and_gradients_equal_the_naive_path(exact, rows) -> None:
    assert largest_gap(*shared_and_naive(*exact, rows.select([0, 1, 2]))) < 1e-6


def break_mask(monkeypatch):
    """Completions see those before them."""
    original = packing._segment

    def leaky(*place):
        segment = original(*place)
        return replace(segment, mask=torch.ones_like(segment.mask).tril(segment.middle - segment.start))

    monkeypatch.setattr(packing, "_segment", leaky)


def break_positions(monkeypatch):
    """Completions start one position late."""
    original = packing._completion_parts
    monkeypatch.setattr(packing, "_completion_parts", lambda ids, after: original(ids, after + 1))


def swap_images(monkeypatch):
    """The first two prompts get each other's picture."""
    original = packing.pack

    def swapped(model, inputs, *rest):
        pixels = inputs["pixel_values"].chunk(3)
        return original(model, dict(inputs, pixel_values=torch.cat([pixels[1], pixels[0], pixels[2]])), *rest)

    monkeypatch.setattr(packing, "pack", swapped)


def shift_targets(monkeypatch):
    """Each token is scored by the state before the right one."""
    original = packing._scored
    monkeypatch.setattr(packing, "_scored", lambda middle, members: [n - 1 for n in original(middle, members)])


@pytest.mark.parametrize("broken", [break_mask, break_positions, swap_images, shift_targets])
def test_what_is_broken_is_noticed(exact, rows, monkeypatch, broken) -> None:
    ours = shared_and_naive(*exact, rows.select([0, 1, 2]))[1]
    broken(monkeypatch)
    assert largest_gap(shared_and_naive(*exact, rows.select([0, 1, 2]))[0], ours) > 1e-4


def test_a_batch_with_empty_rows_keeps_the_others(exact, rows) -> None:
    model, processor = exact
    inputs = inputs_for(processor, rows.select([0, 1])[:], torch.float64)
    ids, mask = padded(ragged_group(processor, 2, 2), 0)
    whole = completion_logps(model, inputs, ids, group_rows(2, 2), mask.sum(1))
    lengths = mask.sum(1) * torch.tensor([1, 0, 0, 0])
    part = completion_logps(model, inputs, ids, group_rows(2, 2), lengths)
    assert torch.allclose(part[0], whole[0], atol=1e-9) and not part[1:].any()
    assert not completion_logps(model, inputs, ids, group_rows(2, 2), lengths * 0).any()


def test_greedy_sampling_equals_generate(tiny, rows) -> None:
    model, processor = tiny
    inputs = inputs_for(processor, rows.select(range(3))[:])
    ours = sample(model, inputs, 1, Sampling(max_new_tokens=12, temperature=0)).ids
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
    hot = Sampling(max_new_tokens=40)
    draws = [sample(model, inputs, 4, hot, torch.Generator().manual_seed(seed)).ids for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2] and len(draws[0]) == 8
    assert not {token for row in draws[0] + draws[2] for token in row} & set(vision_tokens(model))


def test_rows_that_stopped_leave_and_the_others_go_on(tiny, rows, monkeypatch) -> None:
    model, processor = tiny
    inputs = inputs_for(processor, rows.select(range(3))[:])
    full = sample(model, inputs, 1, Sampling(max_new_tokens=10, temperature=0)).ids
    stop = full[0][2]  # pretend that this token ends a completion
    monkeypatch.setattr("visual_rft.rollouts.stop_tokens", lambda model: [stop])
    short = sample(model, inputs, 1, Sampling(max_new_tokens=10, temperature=0)).ids
    for mine, whole in zip(short, full):
        cut = whole.index(stop) + 1 if stop in whole else len(whole)
        assert mine == whole[:cut]


def test_top_k_and_top_p_narrow_the_choice(tiny, rows) -> None:
    model, processor = tiny
    inputs = inputs_for(processor, rows.select([0])[:])
    greedy = sample(model, inputs, 1, Sampling(max_new_tokens=6, temperature=0)).ids[0]
    for narrow in (Sampling(6, top_k=1), Sampling(6, top_p=1e-6)):
        assert sample(model, inputs, 2, narrow).ids == [greedy, greedy]


def test_distinct_rows_look_at_text_and_picture() -> None:
    prompts = torch.tensor([[1, 2], [1, 2], [1, 2], [3, 4]])
    pixels, grids = torch.arange(16.0).view(4, 4), torch.tensor([[1, 1, 1]] * 4)
    pixels[1] = pixels[0]
    first, number = distinct_rows(prompts, split_images(pixels, grids, [1] * 4))
    assert first == [0, 2, 3] and number.tolist() == [0, 0, 1, 2]


def test_sampled_log_probabilities_are_those_of_the_plain_model(tiny, rows) -> None:
    model, processor = tiny
    part = rows.select(range(2))
    for heat in (1.0, 0.7):
        drawn = sample(model, inputs_for(processor, part[:]), 3, Sampling(12, heat), torch.Generator().manual_seed(0))
        for number, (ids, logps) in enumerate(zip(drawn.ids, drawn.logps)):
            with torch.no_grad():
                logits = naive_logits(model, processor, part.select([number // 3]), ids, torch.float32)
            plain = (logits / heat).log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
            assert (plain - torch.tensor(logps)).abs().max() < 1e-5


def test_no_stop_token_before_its_time(tiny, rows, monkeypatch) -> None:
    model, processor = tiny
    inputs = inputs_for(processor, rows.select(range(2))[:])
    first = sample(model, inputs, 1, Sampling(4, temperature=0)).ids[0][0]
    monkeypatch.setattr("visual_rft.rollouts.stop_tokens", lambda model: [first])
    assert sample(model, inputs, 1, Sampling(8, temperature=0)).ids[0] == [first]
    held = sample(model, inputs, 1, Sampling(8, temperature=0, min_new_tokens=5)).ids[0]
    assert first not in held[:5] and len(held) > 5


@pytest.fixture(scope="module")
def llava(tokenizer):
    """A small random model of another family, with inputs for two prompts."""
    config = LlavaConfig(
        text_config=dict(model_type="llama", vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
                         num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2),
        vision_config=dict(model_type="clip_vision_model", hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                           num_attention_heads=2, image_size=16, patch_size=8, projection_dim=32),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"), image_seq_length=4,
    )
    torch.manual_seed(0)
    ids = tokenizer(["<|image_pad|>" * 4 + "cat ? 12", "<|image_pad|>" * 4 + "dog"], padding=True, return_tensors="pt")
    pixels = torch.randn(2, 3, 16, 16)
    inputs = dict(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], pixel_values=pixels)
    return LlavaForConditionalGeneration(config).eval(), inputs


def test_other_families_are_sampled_without_sharing(llava, tokenizer) -> None:
    model, inputs = llava
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    draws = [sample(model, inputs, 3, Sampling(6), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2] and len(draws[0].ids) == 6
    assert not {token for row in draws[0].ids for token in row} & set(vision_tokens(model))
    row, logps = draws[0].ids[4], torch.tensor(draws[0].logps[4])
    tail, own = torch.tensor([row]), {key: value[1:] for key, value in inputs.items()}
    whole = torch.cat([own["input_ids"], tail], dim=1)
    mask = torch.cat([own["attention_mask"], torch.ones_like(tail)], dim=1)
    logits = model(input_ids=whole, attention_mask=mask, pixel_values=own["pixel_values"]).logits[0, -len(row) - 1:-1]
    assert (logits.log_softmax(-1).gather(-1, tail[0][:, None])[:, 0] - logps).abs().max() < 1e-4
