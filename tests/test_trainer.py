"""The trainer computes what TRL's trainer computes: every loss, every gradient, whatever the setting."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import utils

from visual_rft import miniature
from visual_rft.records import read_log
from visual_rft.settings import GRPOSettings
from visual_rft.trainer import VisualGRPOTrainer, chat_rows, grpo_config, train_grpo

LETTERS = "what is seen in the picture, and where"
LORA = LoraConfig(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], r=4, init_lora_weights=False)


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Prompts of different lengths, with one or two pictures."""
    scenes = miniature.test_rows(count=8, negatives=0)
    pictures = [[scenes[n]["image"]] * (1 + n % 2) + [scenes[n - 1]["image"]] * (n % 2) for n in range(8)]
    return Dataset.from_dict(dict(
        prompt=[[{"role": "user", "content": LETTERS[: 5 + 4 * n]}] for n in range(8)],
        images=[images[:2] for images in pictures], group=list(range(8)),
    ))


def pay(completions, group, **columns) -> list[float]:
    """Different rewards in most groups, equal ones in every fourth."""
    return [1.0 if number % 4 == 3 else (len(text[0]["content"]) * 37 % 11) / 10
            for text, number in zip(completions, group)]


def build(kind, tiny, rows, folder, *, lora: bool = False, **options):
    """A trainer whose model is a copy of the tiny one in double precision."""
    tiny[0].save_pretrained(folder / "start")  # TRL loads the reference model from where the model came
    model, processor = type(tiny[0]).from_pretrained(folder / "start", dtype=torch.float64).eval(), tiny[1]
    model.generation_config.eos_token_id = [2, *range(100, 160)]  # so that untrained models end at different lengths
    torch.manual_seed(0)
    usual = dict(output_dir=str(folder), per_device_train_batch_size=8, num_generations=4, max_completion_length=12,
                 use_cpu=True, report_to="none", bf16=False, gradient_checkpointing=False)
    trainer = kind(model=model, processing_class=processor, train_dataset=rows, reward_funcs=[pay],
                   args=GRPOConfig(**(usual | options)), peft_config=LORA if lora else None)
    for each in filter(None, (trainer.model, trainer.ref_model)):
        each.double()
    if lora:
        for name, parameter in trainer.model.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer


def batches(trainer) -> list[dict]:
    """The micro-batches of one optimiser step, sampled and scored."""
    trainer.model.train()
    torch.manual_seed(1)
    found = []
    for _, batch in zip(range(trainer.args.gradient_accumulation_steps), trainer.get_train_dataloader()):
        found.append(trainer._prepare_inputs(batch))
        trainer._step += 1
    return found


def gradients(trainer, inputs: list[dict]) -> dict[str, torch.Tensor]:
    """The loss of an optimiser step and the gradient of every parameter."""
    trainer.model.train()
    trainer.model.zero_grad()
    losses = []
    for batch in inputs:
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        losses.append(loss.detach())
    found = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return dict(found, loss=1 + torch.stack(losses).sum())  # many losses are zero but for rounding


def largest_gap(ours: dict, theirs: dict) -> float:
    """The largest distance of any two tensors of a name, relative to the length of the second."""
    assert ours.keys() == theirs.keys() and len(ours) > 5
    return max(((ours[n] - theirs[n]).norm() / theirs[n].norm().clamp(min=1e-12)).item() for n in theirs)


CASES = {
    "everything trained": dict(),
    "pull to the reference": dict(beta=0.04),
    "accumulated over 4": dict(gradient_accumulation_steps=4),
    "accumulated over 4, pull": dict(gradient_accumulation_steps=4, beta=0.04),
    "LoRA": dict(lora=True),
    "LoRA, pull": dict(lora=True, beta=0.04),
    "checkpointing": dict(gradient_checkpointing=True, gradient_checkpointing_kwargs=dict(use_reentrant=False)),
    "checkpointing and LoRA": dict(gradient_checkpointing=True, lora=True),
    "temperature": dict(temperature=0.7),
    "groups cut in two": dict(per_device_train_batch_size=2, gradient_accumulation_steps=4),
    "two passes over each batch": dict(num_iterations=2, beta=0.04),
    **{name: dict(loss_type=name, gradient_accumulation_steps=2) for name in ("grpo", "dr_grpo", "bnpo", "cispo")},
    "sequence ratios": dict(loss_type="grpo", importance_sampling_level="sequence"),
    "batch scale": dict(scale_rewards="batch"),
    "undecided tokens only": dict(top_entropy_quantile=0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_trl(tiny_one, rows, tmp_path, case) -> None:
    ours = build(VisualGRPOTrainer, tiny_one, rows, tmp_path, **CASES[case])
    theirs = build(GRPOTrainer, tiny_one, rows, tmp_path, **CASES[case])
    inputs = batches(ours)
    assert len({tuple(row.tolist()) for batch in inputs for row in batch["prompt_ids"]}) > 1
    assert len({int(n) for batch in inputs for n in batch["completion_mask"].sum(1)}) > 1  # ragged
    assert largest_gap(gradients(ours, inputs), gradients(theirs, inputs)) < 1e-6


@pytest.mark.parametrize("lora", [False, True])
def test_every_family_equals_trl_and_so_does_the_reference(tiny, rows, tmp_path, lora) -> None:
    ours = build(VisualGRPOTrainer, tiny, rows, tmp_path, beta=0.04, lora=lora)
    theirs = build(GRPOTrainer, tiny, rows, tmp_path, beta=0.04, lora=lora)
    inputs = batches(ours)
    theirs._generate = lambda prompts: (_ for _ in ()).throw(AssertionError("not here"))
    assert largest_gap(gradients(ours, inputs), gradients(theirs, inputs)) < 1e-6
    reference, place = theirs.ref_model or theirs.model, inputs[0]
    with torch.no_grad(), theirs.model.disable_adapter() if lora else torch.no_grad():
        whole = [torch.cat([place[f"prompt_{what}"], place[f"completion_{what}"]], 1) for what in ("ids", "mask")]
        fields = {k: place[k] for k in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
        plain, _, _ = theirs._get_per_token_logps_and_entropies(
            reference, *whole, place["completion_ids"].shape[1], **fields)
    assert (plain - place["ref_per_token_logps"]).abs().max() < 1e-6


def test_bfloat16_is_as_near_as_trls(tiny_one, rows, tmp_path) -> None:
    """Under autocast both ways leave the exact gradient by rounding, and ours not further than TRL's."""
    kinds = dict(exact=(GRPOTrainer, False), ours=(VisualGRPOTrainer, True), trl=(GRPOTrainer, True))
    trainers = {name: build(kind, tiny_one, rows, tmp_path, bf16=half) for name, (kind, half) in kinds.items()}
    for trainer in trainers.values():
        trainer.model.float()
    inputs = batches(trainers["exact"])
    found = {name: gradients(trainer, inputs) for name, trainer in trainers.items()}
    ours, trl = (largest_gap(found[name], found["exact"]) for name in ("ours", "trl"))
    assert 1e-4 < ours < 2 * trl and ours < 0.5


def patches_seen(trainer, run) -> int:
    """How many patches go through the vision tower meanwhile."""
    seen = []
    tower = next(m for n, m in trainer.model.named_modules() if n.endswith("visual"))
    hook = tower.register_forward_pre_hook(lambda module, values: seen.append(len(values[0])))
    run()
    hook.remove()
    return sum(seen)


def test_groups_without_spread_are_not_read(tiny_one, rows, tmp_path) -> None:
    ours = build(VisualGRPOTrainer, tiny_one, rows, tmp_path)
    theirs = build(GRPOTrainer, tiny_one, rows, tmp_path)
    inputs = batches(ours)
    inputs[0]["advantages"] = torch.tensor([0.0] * 4 + [1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    expected = gradients(theirs, inputs)
    half = patches_seen(ours, lambda: gradients(ours, inputs))
    assert largest_gap(gradients(ours, inputs), expected) < 1e-6
    inputs[0]["advantages"] = torch.ones(8, dtype=torch.float64)
    assert 0 < half < patches_seen(ours, lambda: gradients(ours, inputs))
    inputs[0]["advantages"] *= 0
    flat = gradients(ours, inputs)
    assert flat.pop("loss") == 1 and not any(value.any() for value in flat.values())
    ours.beta = 0.04  # now every row counts
    inputs[0]["ref_per_token_logps"] = torch.zeros(inputs[0]["completion_ids"].shape, dtype=torch.float64)
    assert gradients(ours, inputs)["loss"] > 1


@pytest.mark.parametrize("old", [False, True])
def test_no_spread_anywhere_is_no_gradient_and_no_nan(tiny_one, rows, tmp_path, old) -> None:
    ours = build(VisualGRPOTrainer, tiny_one, rows, tmp_path)
    inputs = batches(ours)
    inputs[0]["advantages"] = torch.tensor([0.0] * 4 + [1.0] * 4, dtype=torch.float64)
    if old:
        inputs[0]["old_per_token_logps"] = torch.full(inputs[0]["completion_ids"].shape, -1e4, dtype=torch.float64)
        inputs[0]["old_per_token_logps"][4:] = -1
    found = gradients(ours, inputs)
    assert all(value.isfinite().all() for value in found.values()) and any(value.any() for value in found.values())


def test_micro_batches_keep_groups_whole(tiny_one, rows, tmp_path) -> None:
    ours = build(VisualGRPOTrainer, tiny_one, rows, tmp_path, per_device_train_batch_size=4,
                 gradient_accumulation_steps=4)
    for batch in batches(ours):
        assert len({tuple(row.tolist()) for row in batch["prompt_ids"]}) == 1 and len(batch["prompt_ids"]) == 4


def test_vllm_may_write_the_completions(tiny_one, rows, tmp_path) -> None:
    """A stand-in for vLLM: TRL's way of sampling through it, our way of scoring."""
    ours = build(VisualGRPOTrainer, tiny_one, rows, tmp_path)
    stop = ours._tokenizer.eos_token_id
    written = [[100 + n % 3, 107, stop] if n % 2 else [109, stop] for n in range(8)]
    engine = SimpleNamespace(sync_weights=lambda: None, generate=lambda prompts, **more: (
        None, written, [[[-1.0]] * len(ids) for ids in written], None))
    ours.use_vllm, ours.vllm_generation, ours._last_loaded_step = True, engine, -1
    ours.vllm_importance_sampling_correction = True
    ours.vllm_importance_sampling_mode = "token_truncate"
    ours.vllm_importance_sampling_clip_min, ours.vllm_importance_sampling_clip_max = None, 2.0
    inputs = batches(ours)
    drawn = [ids[mask.bool()].tolist() for ids, mask in zip(inputs[0]["completion_ids"], inputs[0]["completion_mask"])]
    assert sorted(drawn) == sorted(written) and inputs[0]["old_per_token_logps"].any()
    assert all(value.isfinite().all() for value in gradients(ours, inputs).values())


@pytest.mark.parametrize("settings", [dict(), dict(beta=0.04)])
def test_a_training_run_equals_trls(tiny_one, tmp_path, settings) -> None:
    """Two whole steps with the same completions, in single precision, end with the same weights."""
    scenes = chat_rows(miniature.test_rows(count=6, negatives=0))
    tiny_one[0].save_pretrained(tmp_path / "start")
    ends = []
    for kind in (VisualGRPOTrainer, GRPOTrainer):
        config = grpo_config(GRPOSettings(steps=2, prompts=2, group=2, warmup=0, **settings), tmp_path / kind.__name__)
        model = type(tiny_one[0]).from_pretrained(tmp_path / "start")
        trainer = kind(model=model, processing_class=tiny_one[1], train_dataset=scenes, args=config,
                       reward_funcs=[lambda completions, **columns: [n * 0.5 for n in range(len(completions))]])
        trainer._generate_single_turn = lambda prompts, *more: (
            [[100 + n % 5, 107, 2] for n in range(len(prompts))], None)
        trainer.train()
        ends.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    start = torch.cat([p.detach().flatten() for p in tiny_one[0].parameters()])
    assert (ends[0] - start).abs().max() > 1e-5
    assert (ends[0] - ends[1]).abs().mean() < 1e-2 * (ends[0] - start).abs().mean()


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("settings", [dict(prompts=4), dict(prompts=2, accumulate=2)])
def test_fewer_rows_than_a_step_needs_are_trained_on(tiny_one, tmp_path, settings) -> None:
    """TRL's sampler leaves out what does not fill a step, and would train nothing at all."""
    few = miniature.few_shot_rows(1, 0, miniature.FEW_SHOT[:3])
    assert len(few) == 3
    whole = GRPOSettings(steps=2, group=2, max_completion_length=6, save_every=9, **settings)
    train_grpo(*tiny_one, few, tmp_path, whole)
    assert read_log(tmp_path / "metrics.csv")["step"] == [1, 2]


def test_trl_and_transformers_still_have_what_is_relied_on() -> None:
    """Notices when a new version changes a method that is overridden or called."""
    assert parameters(GRPOTrainer._generate_single_turn) == [
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"]
    assert parameters(GRPOTrainer._get_per_token_logps_and_entropies)[:8] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
        "compute_aux_loss"]
    assert {"pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids"} <= set(
        parameters(GRPOTrainer._get_per_token_logps_and_entropies))
    assert parameters(GRPOTrainer._compute_loss) == ["self", "model", "inputs"]
    assert parameters(GRPOTrainer._prepare_inputs) == ["self", "generation_batch"]
    assert parameters(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert parameters(utils.split_tensor_dict) == ["tensor_dict", "num_chunks"]
    assert parameters(utils.split_pixel_values_by_grid) == parameters(utils.unsplit_pixel_values_by_grid) == ["batch"]
    assert parameters(sdpa_attention_forward)[:7] == [
        "module", "query", "key", "value", "attention_mask", "dropout", "scaling"]
    assert callable(AttentionInterface.register)


def test_the_way_trl_prepares_a_batch_is_still_the_one_that_was_copied() -> None:
    """Our `_prepare_inputs` differs from TRL's in the shuffle only."""
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    for piece in ("steps_per_generation * self.num_iterations", "self._step % generate_every == 0",
                  "shuffle_sequence_dict(generation_batch)", "split_tensor_dict(generation_batch",
                  "self._buffered_inputs[self._step % self.args.steps_per_generation]"):
        assert piece in source
