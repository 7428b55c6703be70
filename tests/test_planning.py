"""The plan of a run: exact sizes, straight lines, and peaks that real training steps on the CPU confirm."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForImageTextToText

from visual_rft import planning
from visual_rft.benchmark import count_operations
from visual_rft.cli import main
from visual_rft.doctor import WEIGHTS
from visual_rft.models import FAMILIES
from visual_rft.planning import GPU, GPUS, PUBLISHED, Plan, configuration, count_parameters, estimate
from visual_rft.rollouts import group_rows
from visual_rft.settings import PlanSettings

TINY = PlanSettings(model="", prompts=2, group=4, max_pixels=112**2, text=100, completion=40, dtype="float32")
LEAST = replace(TINY, prompts=1, group=2, max_pixels=64**2, text=10, completion=8)


def family_config(family: str):
    """A small configuration of a family, five layers deep in both parts."""
    rope = dict(rope_type="default", rope_theta=1e4, mrope_section=[4, 6, 6])
    text = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=1,
                vocab_size=300, rope_parameters=rope)  # fmt: skip
    vision = dict(depth=5, num_heads=2, patch_size=8)
    vision |= {
        "qwen2_vl": dict(embed_dim=64, hidden_size=64, mlp_ratio=2),
        "qwen2_5_vl": dict(hidden_size=64, out_hidden_size=64, intermediate_size=96, window_size=32,
                           fullatt_block_indexes=[1, 4]),
        "qwen3_vl": dict(hidden_size=64, out_hidden_size=64, intermediate_size=96, num_position_embeddings=64,
                         deepstack_visual_indexes=[1, 2]),
    }[family]  # fmt: skip
    if family == "qwen3_vl":
        text |= dict(head_dim=32, rope_parameters=rope | dict(mrope_section=[6, 5, 5], mrope_interleaved=True))
    ids = dict(image_token_id=5, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8)
    return FAMILIES[family][1](text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_as_many_parameters_as_published(name: str) -> None:
    assert count_parameters(configuration(name)) == PUBLISHED[name].parameters


def test_the_2b_model_has_2208985600() -> None:
    assert PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"].parameters == 2_208_985_600


@pytest.mark.parametrize(
    "change",
    [{}, dict(lora_rank=16), dict(checkpointing=True), dict(way="trl", prompts=1)],
    ids=["full", "lora", "checkpointing", "trl"],
)
def test_the_planned_peak_is_the_measured_one(change: dict) -> None:
    settings = replace(TINY, **change)
    measured = planning.measured_peak(configuration(""), settings)
    assert abs(planning.planned_peak(settings) / measured - 1) < 0.15


def test_the_planned_peak_of_a_model_of_25_million_weights(tmp_path) -> None:
    config = family_config("qwen2_vl")
    config.text_config.hidden_size = config.vision_config.hidden_size = 512
    config.text_config.intermediate_size, config.text_config.vocab_size = 1024, 20_000
    config.text_config.num_attention_heads, config.text_config.num_key_value_heads = 16, 4
    config.save_pretrained(tmp_path)
    settings = replace(TINY, model=str(tmp_path), prompts=1)
    assert 20e6 < count_parameters(config) < 60e6
    measured = planning.measured_peak(config, settings)
    assert abs(planning.planned_peak(settings) / measured - 1) < 0.15


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_short_models_tell_about_deep_ones_to_the_byte(family: str) -> None:
    config = family_config(family)
    whole, line = planning.measure(config, LEAST), planning.measure_short(config, LEAST)
    assert {name: whole[name] for name in line} == line
    assert {name for name in whole if name not in line} == {name for name in whole if "middle" in name}
    assert planning._depths(config) == (5, 3, 2)


def test_short_models_with_checkpoints_and_adapters() -> None:
    config, settings = family_config("qwen2_vl"), replace(LEAST, checkpointing=True, lora_rank=4, dtype="bfloat16")
    whole, line = planning.measure(config, settings), planning.measure_short(config, settings)
    assert {name: whole[name] for name in line} == line


def test_operations_are_those_of_pytorchs_counter() -> None:
    config = configuration("")
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    inputs, rows_of = planning._prompts(config, LEAST, torch.zeros), group_rows(1, 2)
    completions = torch.ones(2, LEAST.completion, dtype=torch.long)
    counted = count_operations(lambda: planning._logps(model, inputs, completions, rows_of, "shared", False))
    assert planning.measure(config, LEAST, gpu=False)["forward"] == sum(counted.values()) > 0


def test_the_ledger_counts_storages_once_and_forgets_them() -> None:
    known = torch.zeros(10)
    live = planning._Live([known])
    with live:
        view = known.view(2, 5)
        made = known + 1
        part = made[2:]
        assert live.bytes == 40 and live.kernels == 1
        live.enter("later")
        torch.add(known, known, out=made)
        del made, part
        assert live.bytes == 0
        view.mm(view.T)
    assert live.operations == 2 * 2 * 5 * 2 and live.peaks == {"start": (40, 0), "later": (40, 0)}


def test_parts_follow_their_formulas() -> None:
    plan = estimate(replace(TINY, beta=0.1), gpu=False)
    n = plan.parameters
    assert plan.trained == n == count_parameters(configuration(""))
    for phase in plan.phases.values():
        assert (phase["weights"], phase["optimiser"], phase["reference"]) == (4 * n, 8 * n, 4 * n)
    assert plan.phases["update"]["gradients"] == 4 * n
    config = configuration("").text_config
    tokens = 49 + 100 + 40
    numbers = config.num_hidden_layers * 2 * config.num_key_value_heads * 32
    assert plan.phases["sampling"]["cache"] == 4 * numbers * tokens * 8


def test_four_gpus_divide_what_zero_3_divides() -> None:
    one, four = (estimate(replace(TINY, gpus=gpus, beta=0.1, dtype="bfloat16")).phases for gpus in (1, 4))
    for part in ("gradients", "reference"):
        assert four["update"][part] == one["update"][part] // 4
    assert four["update"]["optimiser"] == 3 * one["update"]["optimiser"] // 4  # 12 bytes a weight instead of 4
    four = estimate(replace(TINY, gpus=4, beta=0.1)).phases
    assert four["update"]["optimiser"] == 8 * count_parameters(configuration("")) // 4  # float32 weights need no copy
    four = estimate(replace(TINY, gpus=4, beta=0.1, dtype="bfloat16")).phases
    assert four["sampling"]["weights"] == one["sampling"]["weights"] * 5 // 4  # gathered for sampling
    assert four["update"]["weights"] < four["training"]["weights"] < one["training"]["weights"]
    assert four["sampling"]["cache"] == one["sampling"]["cache"]


def test_adapters_need_no_reference_and_four_bits_less_weights() -> None:
    adapters = estimate(replace(TINY, lora_rank=8, beta=0.1, dtype="bfloat16"))
    packed = estimate(replace(TINY, lora_rank=8, beta=0.1, dtype="bfloat16", quantised=True))
    assert adapters.phases["training"]["reference"] == 0 and adapters.trained < adapters.parameters / 10
    assert adapters.phases["update"]["gradients"] == 4 * adapters.trained  # adapters are float32
    assert packed.phases["update"]["gradients"] == 2 * packed.trained  # bfloat16 above 4 bits
    assert packed.phases["training"]["weights"] < adapters.phases["training"]["weights"] * 0.65


@pytest.mark.parametrize("size", ["2B", "7B"])
def test_four_bits_hold_the_layers_of_the_language_model(size: str) -> None:
    """As `models.load` packs them (test_families), and as the doctor counts them."""
    config = configuration(f"Qwen/Qwen2-VL-{size}-Instruct")
    plain, packed = (planning._sizes(config, PlanSettings(lora_rank=64, quantised=quantised))
                     for quantised in (False, True))  # fmt: skip
    saved = (plain.weights - plain.trained_bytes) - (packed.weights - packed.trained_bytes)
    assert saved == pytest.approx(WEIGHTS[size][1] * (2 - planning.FOUR_BITS), rel=1e-6)


def test_sharing_and_checkpoints_save_activations() -> None:
    kept = {
        name: estimate(replace(TINY, prompts=1, **change), gpu=False).phases["training"]["activations"]
        for name, change in (("ours", {}), ("theirs", dict(way="trl")), ("again", dict(checkpointing=True)))
    }
    assert kept["again"] < kept["ours"] < kept["theirs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model="gpt2"), "unknown model 'gpt2'; expected a folder"), (dict(group=0), "group is at least 1"),
        (dict(dtype="int4"), "dtype is one of"), (dict(quantised=True), "needs adapters"),
        (dict(dtype="float16"), "float16 weights cannot be trained"), (dict(way="both"), "way is shared or trl"),
        (dict(max_pixels=9), "max_pixels is at least 256"), (dict(beta=-0.1), "not negative"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(replace(TINY, **change))


def made_up(**work: int) -> Plan:
    """A plan with made-up work and 100 bytes of weights."""
    work = dict(prefill=0, prefill_kernels=0, decode=0, decode_kernels=0, decode_bytes=0, forward=0, backward=0,
                kernels=0, update_bytes=0) | work  # fmt: skip
    return Plan(PlanSettings(completion=10, beta=0.1), 50, 50, {"training": dict(weights=100)}, work)


def test_seconds_are_those_of_the_slowest_resource() -> None:
    gpu = GPU(memory=1000, operations=1e12, bandwidth=1e9)
    moved = planning.step_seconds(made_up(decode=10, decode_bytes=600_000_000, forward=35 * 10**10), gpu)
    assert moved == pytest.approx(dict(sampling=10 * 1.0, reference=1.0, training=1.0, update=0.0))
    started = planning.step_seconds(made_up(decode_kernels=1000, kernels=500_000, update_bytes=6 * 10**8), gpu)
    assert started == pytest.approx(dict(sampling=10 * 0.01, reference=0.0, training=5.0, update=1.0))


def test_a_plan_fits_when_a_tenth_stays_free() -> None:
    assert planning.fits(made_up(), GPU(112, 1, 1)) and not planning.fits(made_up(), GPU(111, 1, 1))


def rough(settings: PlanSettings, gpu: bool) -> dict[str, int]:
    """Made-up results of a run, larger for more tokens, TRL's way and without checkpoints."""
    size = 10**5 * settings.group * settings.completion * (3 if settings.way == "trl" else 1)
    zeros = ("sampling: start", "gradients: end", "decode_bytes", "prefill", "prefill_kernels", "decode",
             "decode_kernels", "forward", "backward", "kernels")  # fmt: skip
    return dict.fromkeys(zeros, 0) | {"training: end": size // (1 + 9 * settings.checkpointing), "update": 10**7}


def test_advice_saves_what_it_says(monkeypatch) -> None:
    monkeypatch.setattr(planning, "_measured", rough)
    settings = replace(TINY, way="trl", completion=80, beta=0.1)
    before = planning.peak_bytes(estimate(settings))
    found = planning.advice(settings)
    names = [change.what for change in found]
    assert names[:2] == ["share picture and prompt in the group", "gradient checkpointing"]
    assert "fused AdamW" not in names  # the update is not the fullest phase
    assert found[0].saves == 2 * 10**5 * 4 * 80
    assert all(0 < change.saves == before - planning.peak_bytes(change.plan) for change in found)


def test_changes_are_made_until_a_plan_fits(monkeypatch) -> None:
    monkeypatch.setattr(planning, "_measured", rough)
    settings = replace(TINY, way="trl", completion=80, beta=0.1)
    shared = planning.peak_bytes(estimate(replace(settings, way="shared")))
    assert planning.made_to_fit(settings, GPU(shared / 0.89, 1, 1))[0] == ["share picture and prompt in the group"]
    assert planning.made_to_fit(settings, GPU(1e12, 1, 1))[0] == []
    done, last = planning.made_to_fit(settings, GPU(1, 1, 1))
    assert len(done) > 4 and not planning.fits(last, GPU(1, 1, 1)) and last.settings.gpus == 1


def test_the_command_prints_a_plan(capsys) -> None:
    line = "plan --model= --gpu T4 --group 4 --max-pixels 12544 --text 100 --completion 40 --dtype float32 --price 2"
    assert main(line.split()) == 0
    text = capsys.readouterr().out
    assert f"{count_parameters(configuration('')):,} parameters" in text
    assert "It fits" in text and "| together |" in text
    assert main([*line.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["room"] == int(0.9 * GPUS["T4"].memory) and found["steps"] == 200
    assert found["hours"] == pytest.approx(200 * sum(found["seconds"].values()) / 3600)
    assert found["cost"] == pytest.approx(2 * found["hours"])


def test_the_command_refuses_an_unknown_gpu(capsys) -> None:
    assert main(["plan", "--gpu", "V100"]) == 2
    assert capsys.readouterr().err.startswith("visual-rft: error: unknown GPU 'V100'; expected one of T4")
