"""Five families in the layout of their published checkpoints: frames, adapters, sampling, training, saving."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES as WRITTEN
from checkpoints import write_checkpoint
from PIL import Image
from test_hub import PAPER_PROMPT
from transformers.quantizers.quantizers_utils import should_convert_module

from visual_rft import models
from visual_rft.advantages import group_advantages, total_reward
from visual_rft.boxes import resized_size
from visual_rft.data import dataset, detection_row, grounding_row
from visual_rft.families import FAMILIES, family_of, framed_rows, limits_of, push_model, save_model, to_pixels
from visual_rft.groups import read_groups
from visual_rft.parsing import PARSERS, parse_detection
from visual_rft.rewards import REWARD_SETS
from visual_rft.rollouts import Sampling, encode_prompts, sample
from visual_rft.settings import GRPOSettings, SFTSettings
from visual_rft.sft import train_sft
from visual_rft.trainer import train_grpo

SIZES = [(640, 360), (333, 500), (97, 1013), (1920, 270), (56, 61)]
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=WRITTEN)
def published(request, tokenizer, tmp_path_factory):
    """Name, folder, model and processor of a small random checkpoint of each family."""
    folder = write_checkpoint(request.param, tokenizer, tmp_path_factory.mktemp("hub") / request.param)
    return request.param, folder, *models.load(str(folder))


def rows_with_a_box(size: tuple[int, int], share: np.ndarray, task: str, thinking: bool):
    """One row for a box that is given as shares of width and height."""
    box, picture = np.rint(share * 1000).astype(int), Image.new("RGB", size, "white")
    if task == "detection":
        return dataset([detection_row(picture, "cat", [box], thinking)])
    return dataset([grounding_row(picture, "It purrs.", "cat", box, thinking)])


def test_all_supported_families_are_tested() -> None:
    assert set(WRITTEN) == set(FAMILIES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", ["detection", "grounding"])
def test_a_box_in_pixels_comes_back_within_one_unit(published, size: tuple[int, int], task: str) -> None:
    _, _, model, processor = published
    share = np.array([0.13, 0.21, 0.64, 0.87])
    pixels = share * np.array(size * 2)
    for thinking in (True, False):
        rows = framed_rows(rows_with_a_box(size, share, task, thinking), model, processor)
        answer = ("<think> a cat </think>" if thinking else "") + rows["solution"][0]
        unit = np.array(size * 2) / 1000
        if family_of(model).frame == "resized":
            seen = resized_size(*size, **limits_of(processor))
            assert f"{seen[0]} pixels wide and {seen[1]} pixels high" in rows["problem"][0]
            unit = np.maximum(unit, np.array(size * 2) / np.array(seen * 2))
        else:
            assert "thousandths" in rows["problem"][0]
        box = PARSERS[task](answer, thinking).boxes[0].box
        assert (abs(to_pixels(np.array([box]), model, processor, size)[0] - pixels) <= unit).all()
        for reward in REWARD_SETS["robust"][task]:
            columns = dict(solution=rows["solution"], problem=rows["problem"])
            assert reward(completions=[answer], **columns) == [1.0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("published", QWEN, indirect=True)
def test_the_processor_resizes_as_the_frame_assumes(published, size: tuple[int, int]) -> None:
    _, _, _, processor = published
    grid = encode_prompts(processor, ["?"], [Image.new("RGB", size)])["image_grid_thw"][0].tolist()
    side = processor.image_processor.patch_size
    assert resized_size(*size, **limits_of(processor)) == (grid[2] * side, grid[1] * side)


def test_negatives_and_classes_keep_their_answers(published) -> None:
    _, _, model, processor = published
    rows = framed_rows(dataset([detection_row(Image.new("RGB", (90, 50)), "cat", [])]), model, processor)
    assert rows["solution"] == ["<answer>No Objects</answer>"]


@pytest.mark.parametrize("problem", [PAPER_PROMPT.format("cat"), "Where is the cat?"], ids=["published", "no units"])
def test_a_question_asks_for_the_units_of_its_solution(published, problem: str) -> None:
    _, _, model, processor = published
    row = detection_row(Image.new("RGB", SIZES[0]), "cat", [(100, 200, 600, 800)]) | dict(problem=problem)
    asked = framed_rows(dataset([row]), model, processor)["problem"][0]
    if family_of(model).frame == "thousandths":
        assert asked == problem
    else:
        width, height = resized_size(*SIZES[0], **limits_of(processor))
        assert f"the image is {width} pixels wide and {height} pixels high" in asked and "1000" not in asked


def test_groups_differ_whatever_habits_the_model_brings(published) -> None:
    _, _, model, processor = published
    assert model.generation_config.top_k == 1  # as the published checkpoints have it
    inputs = encode_prompts(processor, ["What is it?", "Where?"], [Image.new("RGB", size) for size in SIZES[:2]])
    drawn = sample(model.eval(), inputs, 4, Sampling(6), torch.Generator().manual_seed(0))
    assert len(set(map(tuple, drawn.ids))) == 8


def test_adapters_sit_in_every_layer_that_is_asked_for(published) -> None:
    _, folder, _, _ = published
    for vision in (False, True):
        adapted = models.adapt(models.load(str(folder))[0], 4, lora_vision=vision)
        found = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
        language = [name for name in found if "language_model" in name or "text_model" in name]
        tower = [re.split(r"\.(?:blocks|layers|layer)\.", name)[-1] for name in set(found) - set(language)]
        assert len(language) == 2 * 7  # two layers: four projections of attention, three of the feed-forward part
        assert {name.split(".")[0] for name in tower} == ({"0", "1"} if vision else set())
        assert len(tower) >= 2 * 4 * vision


def test_four_bits_take_the_language_model_and_nothing_else(published, monkeypatch) -> None:
    """By Transformers' own rule, which reads names from their first letter."""
    _, _, model, _ = published
    monkeypatch.setattr(models, "find_spec", lambda name: object())  # as if bitsandbytes were there
    left_out = models._four_bits(torch.bfloat16).llm_int8_skip_modules
    layers = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    packed = {name for name in layers if should_convert_module(name, left_out)}
    assert packed == {name for name in layers if re.match(r"model\.(language_model|text_model)\.", name)}
    assert len(packed) == 2 * 7 < len(layers)


def test_a_frozen_tower_does_not_move(published) -> None:
    _, folder, _, _ = published
    model = models.adapt(models.load(str(folder))[0], frozen_vision=True)
    frozen = [name for name, weights in model.named_parameters() if not weights.requires_grad]
    assert frozen and all(any(part in name for part in ("visual", "vision_model", "vision_tower")) for name in frozen)
    assert not any("language_model" in name or "text_model" in name for name in frozen)


def lengths(completions: list, **columns: object) -> list[float]:
    """A reward with some spread for random text: the share of even characters."""
    return [sum(ord(letter) % 2 for letter in str(text)) / max(1, len(str(text))) for text in completions]


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    """All of them, without the copy of new adapters that TRL keeps as the reference policy."""
    return torch.cat([w.detach().flatten().clone() for name, w in model.named_parameters() if ".ref." not in name])


@pytest.mark.parametrize("method", ["sft", "grpo"])
@pytest.mark.parametrize("rank", [0, 4])
def test_every_family_learns_by_both_methods(published, method: str, rank: int, tmp_path: Path, monkeypatch) -> None:
    family, folder, _, _ = published
    monkeypatch.setattr("visual_rft.groups.EVERY", 1)
    model, processor = models.load(str(folder))
    model, share = models.adapt(model, rank), np.array([0.1, 0.2, 0.6, 0.8])
    rows = [rows_with_a_box(size, share, "detection", method == "grpo")[0] for size in SIZES[:2]]
    rows, before = framed_rows(dataset(rows), model, processor), weights_of(model)
    if method == "sft":
        train_sft(model, processor, rows, tmp_path, SFTSettings(steps=2, batch=2, warmup=0, learning_rate=1e-2))
    else:
        settings = GRPOSettings(steps=2, prompts=2, group=2, max_completion_length=8, warmup=0, learning_rate=1e-2,
                                beta=0.04 if rank else 0.0)
        train_grpo(model, processor, rows, tmp_path, settings, rewards=[lengths])
        kept, frame = read_groups(tmp_path), FAMILIES[family].frame
        assert [group.step for group in kept] == [0, 0, 1, 1]
        for group in kept:  # the true box, drawn by its frame, is the box that was asked for
            (true,) = parse_detection(group.solution, thinking=False).boxes
            assert true.box / np.array(group.frame * 2) == pytest.approx(share, abs=0.01)
            assert (group.frame == (1000, 1000)) == (frame == "thousandths")
            expected = group_advantages(total_reward([group.rewards["lengths"]]), 2)
            assert group.advantages == pytest.approx(expected, abs=1e-4)
        measured = [value for group in kept for value in group.kl]
        assert not any(measured[:4]) and (all(value > 0 for value in measured[4:]) and len(measured) == 8
                                          if rank and family in QWEN else not measured)
    assert (weights_of(model) != before).any() and weights_of(model).isfinite().all()


def test_a_saved_model_is_merged_and_has_plain_habits(published, tmp_path: Path) -> None:
    _, folder, _, processor = published
    model = models.adapt(models.load(str(folder))[0], 4)
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        weights.data.normal_(0, 0.05) if "lora_B" in name else None
    model.config.use_cache = False
    inputs = encode_prompts(processor, ["What is it?"], [Image.new("RGB", SIZES[0], "red")])
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        plain = models.load(str(folder))[0].eval()(**inputs).logits
    save_model(model, processor, tmp_path)
    saved, again = models.load(str(tmp_path))
    with torch.no_grad():
        found = saved.eval()(**encode_prompts(again, ["What is it?"], [Image.new("RGB", SIZES[0], "red")])).logits
    assert (found - expected).abs().max() < 1e-5 < (plain - expected).abs().max()
    habits = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved.config.get_text_config().use_cache and habits["eos_token_id"] == model.generation_config.eos_token_id
    assert not {"top_k", "top_p", "temperature", "repetition_penalty"} & set(habits) and not habits.get("do_sample")


def test_an_unknown_family_and_an_empty_folder_are_refused(published, tmp_path: Path) -> None:
    _, _, model, _ = published
    kind = model.config.model_type
    model.config.model_type = "other"
    try:
        with pytest.raises(ValueError, match="unknown model family 'other'; expected one of qwen2_vl"):
            family_of(model)
    finally:
        model.config.model_type = kind
    with pytest.raises(FileNotFoundError, match="expected the folder of a saved model"):
        push_model(tmp_path, "somebody/nothing")
