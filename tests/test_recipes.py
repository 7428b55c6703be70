"""Recipes: every row that can be trained has one, every mistake is named, and every setting arrives where it acts."""

import copy
import importlib.metadata
import runpy
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from transformers import BitsAndBytesConfig

from visual_rft import cli, data, experiments, miniature, models, planning, recipes, sft, trainer
from visual_rft.ledger import PAPER, PAPER_ROWS
from visual_rft.records import read_json, read_log
from visual_rft.rewards import REWARD_SETS
from visual_rft.settings import LARGE, GRPOSettings, PlanSettings, SFTSettings, recorded

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "make_recipes.py"))
ALL = {name: recipes.read_recipe(name) for name in recipes.recipe_names()}
FEW = "table3-2b-4shot-grpo"


# ------------------------------------------------------------------------------------------------- what is covered


def test_the_files_are_what_the_tool_writes() -> None:
    written = {path.stem: path.read_text(encoding="utf-8") for path in TOOL["FOLDER"].glob("*")}
    assert written == {name: TOOL["text_of"](name, made) for name, made in TOOL["all_recipes"]().items()}


def test_every_row_that_can_be_trained_has_a_recipe_and_no_other_has() -> None:
    covered = {row for recipe in ALL.values() for row in recipe.rows}
    rows = {(row.table, row.model, row.setting, row.method) for row in PAPER_ROWS}
    assert covered <= rows
    left = rows - covered
    assert {row for row in left if row[3] == "other"} == {
        (6, "OV-Seg", "-", "other"), (6, "X-Decoder", "-", "other"), (6, "GroundedSAM", "-", "other"),
        (8, "GroundingDINO-B", "-", "other")}
    assert {row for row in left if row[3] in ("SFT", "Visual-RFT")} == {
        (5, "2B", shots, method) for shots in ("4-shot", "16-shot") for method in ("SFT", "Visual-RFT")}
    assert all(row[3] == "baseline" for row in left if row[3] not in ("other", "SFT", "Visual-RFT"))
    assert len(covered) == 38


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_agrees_with_its_rows(name: str) -> None:
    recipe = ALL[name]
    for table, model, setting, method in recipe.rows:
        assert recipe.method == {"SFT": "sft", "Visual-RFT": "grpo"}[method]
        assert recipe.model == f"Qwen/Qwen2-VL-{model}-Instruct"
        assert setting == "-" or recipe.data.shots == int(setting.removesuffix("-shot"))
        measures = {test.measure for test in recipe.tests}
        assert set(PAPER[table].measures) & measures or recipe.column in PAPER[table].details
        for test in recipe.tests:
            known = {"lvis-ap": (4, 8), "coco-ap": (3, 7)}.get(test.protocol, ())
            if table in known and table != 7:
                assert list(test.categories) == list(PAPER[table].details)
    assert recipe.settings["steps"] == {6: 500, 7: 750}.get(table if table != 8 else 7, 200) or recipe.method == "sft"
    assert recipe.settings.get("rewards", "released") in REWARD_SETS


def test_table_2_has_a_training_for_each_column() -> None:
    for row in (row for row in PAPER_ROWS if row.table == 2 and row.method != "baseline"):
        mine = [r for r in ALL.values() if (row.table, row.model, row.setting, row.method) in r.rows]
        assert sorted(recipe.column for recipe in mine) == sorted(PAPER[2].details)


def test_open_vocabulary_splits_the_80_categories() -> None:
    tests = {test.measure: test.categories for test in ALL["table7-7b-grpo"].tests}
    assert (len(tests["mAP_n"]), len(tests["mAP_b"])) == (15, 65)
    assert len(set(tests["mAP_n"]) | set(tests["mAP_b"])) == 80 == len(tests["mAP_all"])
    assert set(tests["mAP_b"]) == set(ALL["table7-7b-grpo"].data.categories)


@pytest.mark.parametrize("size", ["8xa100", "a100", "l4", "t4"])
def test_a_step_is_as_large_on_every_machine_and_fits_its_arithmetic(size: str) -> None:
    for recipe in ALL.values():
        settings, place = recipes.settings_of(recipe, size), recipe.sizes[size]
        batch = settings.prompts if recipe.method == "grpo" else settings.batch
        assert batch * settings.accumulate * place.devices == {"grpo": 16, "sft": 64}[recipe.method]
        assert (settings.dtype == "float16") == (size == "t4")  # compute capability 7.5: no bfloat16
        assert settings.lora_rank or not settings.quantised
        sharded = place.launch.startswith(("fsdp", "zero"))
        assert settings.dtype != "bfloat16" or settings.lora_rank or sharded  # small steps are lost on 16-bit weights


# ------------------------------------------------------------------------------------------------------- mistakes


def write(folder: Path, change) -> Path:
    """A copy of a recipe with a change."""
    values = copy.deepcopy(yaml.safe_load((TOOL["FOLDER"] / f"{FEW}.yaml").read_text(encoding="utf-8")))
    change(values)
    (folder / "mine.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "mine.yaml"


MISTAKES = {
    "unknown key 'modle'": lambda v: v.update(modle="x"),
    "missing key 'model'": lambda v: v.pop("model"),
    "missing key 'settings'": lambda v: (v.pop("settings"), v.update(sources={})),
    "missing key 'sizes'": lambda v: v.pop("sizes"),
    "model must be text, not 3": lambda v: v.update(model=3),
    "rows must be a list of lists": lambda v: v.update(rows=["3 2B"]),
    "method: 'ppo' is none of grpo, sft": lambda v: v.update(method="ppo"),
    "method: None is none of grpo, sft": lambda v: v.pop("method"),
    "method: ['sft'] is none of": lambda v: v.update(method=["sft"]),
    "settings: unknown key 'batch'": lambda v: v["settings"].update(batch=8),
    "settings: group must be a whole number, not True": lambda v: v["settings"].update(group=True),
    "settings: group must be a whole number, not 8.5": lambda v: v["settings"].update(group=8.5),
    "settings: checkpointing must be true or false, not 1": lambda v: v["settings"].update(checkpointing=1),
    "settings: beta must be a number, not '4e-2'; YAML reads": lambda v: v["settings"].update(beta="4e-2"),
    "settings must be a table": lambda v: v.update(settings=["steps"]),
    "sources: beta: None is none of": lambda v: v["sources"].pop("beta"),
    "sources: beta: 'rumour' is none of": lambda v: v["sources"].update(beta="rumour"),
    "sources: unknown key 'seed'": lambda v: v["sources"].update(seed="paper"),
    "data: unknown key 'shot'": lambda v: v["data"].update(shot=1),
    "data: missing key 'source'": lambda v: v["data"].pop("source"),
    "data must be a table, not 'x'": lambda v: v.update(data="x"),
    "data: categories must be a list of texts": lambda v: v["data"].update(categories=[1]),
    "tests must be a list of tables": lambda v: v.update(tests={}),
    "tests: entry 1: protocol: 'ap' is none of": lambda v: v["tests"][0].update(protocol="ap"),
    "tests: entry 1: missing key 'measure'": lambda v: v["tests"][0].pop("measure"),
    "sizes must be a table": lambda v: v.update(sizes=[]),
    "sizes: t4: unknown key 'gpus'": lambda v: v["sizes"]["t4"].update(gpus=1),
    "sizes: t4: settings: unknown key 'bits'": lambda v: v["sizes"]["t4"]["settings"].update(bits=4),
    "sizes: t4: settings: dtype must be text": lambda v: v["sizes"]["t4"]["settings"].update(dtype=16),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_name_the_file_and_the_key(words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        recipes.read_recipe(write(tmp_path, MISTAKES[words]))
    assert str(error.value).startswith("mine.yaml: ") and words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "", "- a", "!!python/object/apply:os.getcwd []", "\x00", b"\xff\xfe\xff"])
def test_what_is_no_table_is_refused(text: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="^mine.yaml: "):
        recipes.read_recipe(tmp_path / "mine.yaml")


def test_an_unchanged_copy_is_read_by_its_path(tmp_path: Path) -> None:
    copied = recipes.read_recipe(write(tmp_path, lambda values: None))
    assert {**vars(copied), "name": FEW} == vars(ALL[FEW])
    with pytest.raises(FileNotFoundError, match="gone.yaml"):
        recipes.read_recipe(tmp_path / "gone.yaml")
    with pytest.raises(ValueError, match=f"nearest are {FEW}"):
        recipes.read_recipe(FEW + "s")
    with pytest.raises(ValueError, match="unknown recipe"):
        recipes.read_recipe("../../../etc/passwd")


# ------------------------------------------------------------------------------------------------ the command line


def test_what_is_typed_overrules_the_recipe() -> None:
    line = ["grpo", "--recipe", FEW, "--size", "t4", "--out", "x"]
    usual = cli._settings(GRPOSettings, cli._parsed(line))
    assert usual == recipes.settings_of(ALL[FEW], "t4") and cli._parsed(line).model == ALL[FEW].model
    more = ["--steps", "200", "--beta", "0", "--no-checkpointing", "--lora-rank", "4", "--model", "my/model"]
    typed = cli._parsed([*line, *more])
    changed = dict(steps=200, beta=0.0, checkpointing=False, lora_rank=4)
    assert asdict(cli._settings(GRPOSettings, typed)) == asdict(usual) | changed and typed.model == "my/model"
    assert cli._settings(GRPOSettings, cli._parsed(["grpo", "--out", "x"])) == GRPOSettings()
    assert cli._settings(SFTSettings, cli._parsed(["sft", "--out", "x"])) == SFTSettings()


def test_a_recipe_trains_on_its_own_data_set(monkeypatch, tmp_path: Path) -> None:
    seen = {}
    monkeypatch.setattr(data, "load_rows", lambda name: seen.setdefault("rows", name))
    monkeypatch.setattr(experiments, "fine_tune", lambda *values, **more: seen.update(values=values, details=more))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert cli.main(["sft", "--recipe", "table4-7b-10shot-sft", "--size", "l4", "--out", str(tmp_path)]) == 0
    assert seen["rows"] == "laolao77/ViRFT_LVIS_few_shot"
    method, start, rows, settings, folder, command = seen["values"]
    assert (method, start) == ("sft", "Qwen/Qwen2-VL-7B-Instruct") and settings.accumulate == 64
    assert seen["details"]["recipe"] == "table4-7b-10shot-sft" and seen["details"]["size"] == "l4"
    seen.clear()
    assert cli.main(["grpo", "--recipe", FEW, "--data", "mine.jsonl", "--out", str(tmp_path)]) == 0
    assert seen["rows"] == "mine.jsonl"


def test_every_training_by_grpo_can_be_planned() -> None:
    for recipe in ALL.values():
        for size, place in recipe.sizes.items():
            if recipe.method == "sft":
                with pytest.raises(ValueError, match="plans are made for grpo"):
                    recipes.plan_of(recipe, size)
                continue
            plan, settings = recipes.plan_of(recipe, size), recipes.settings_of(recipe, size)
            planning._check(plan)
            assert plan.model == recipe.model in planning.PUBLISHED
            assert (plan.completion, plan.group) == (settings.max_completion_length, settings.group)
            for name in ("lora_rank", "dtype", "quantised", "beta", "max_pixels", "fused", "prompts", "checkpointing"):
                assert getattr(plan, name) == getattr(settings, name), name
            assert plan.gpus == (place.devices if place.launch == "fsdp2" else 1)


@pytest.mark.parametrize(("more", "size"), [
    ("--gpu T4", "t4"), ("--gpu L4", "l4"), ("--gpu RTX4090", "l4"), ("--gpu A100-80GB", "a100"),
    ("--gpu H100", "a100"), ("--gpu T4 --size 8xa100", "8xa100")])
def test_a_plan_takes_the_size_that_suits_its_gpu(more: str, size: str) -> None:
    line = ["plan", "--recipe", FEW, *more.split()]
    settings = recipes.settings_of(ALL[FEW], size)
    assert cli._settings(PlanSettings, cli._parsed(line)) == recipes.plan_of(ALL[FEW], size)
    assert cli._parsed(line).steps == settings.steps * settings.accumulate
    typed = cli._parsed([*line, "--group", "4", "--steps", "7", "--no-checkpointing"])
    expected = replace(recipes.plan_of(ALL[FEW], size), group=4, checkpointing=False)
    assert cli._settings(PlanSettings, typed) == expected and typed.steps == 7


@pytest.mark.parametrize(("line", "words"), [
    ("plan --recipe table3-2b-4shot-sft --gpu T4", "plans are made for grpo, not for sft"),
    (f"sft --recipe {FEW}", f"recipe {FEW} is for the command grpo, not sft"),
    ("grpo --recipe table6-2b-grpo", "no rows of reasonseg:train are on the hub"),
    (f"grpo --recipe {FEW} --size v100", "size: 'v100' is none of 8xa100, a100, l4, t4"),
    ("grpo --recipe table9", "unknown recipe 'table9'"),
])
def test_a_recipe_that_does_not_fit_is_one_clear_line(line: str, words: str, capsys, tmp_path: Path) -> None:
    out = [] if line.startswith("plan") else ["--out", str(tmp_path / "out")]
    assert cli.main([*line.split(), *out]) == 2
    text = capsys.readouterr().err
    assert text.startswith("visual-rft: error: ") and words in text and text.count("\n") == 1
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------- where the settings of large models act


def test_records_keep_their_words() -> None:
    assert not set(recorded(GRPOSettings())) & set(LARGE) and not set(recorded(SFTSettings())) & set(LARGE)
    assert recorded(GRPOSettings(vllm="server", accumulate=2)) == recorded(GRPOSettings()) | dict(
        vllm="server", accumulate=2)
    assert set(recorded(SFTSettings(steps=7))) == set(asdict(SFTSettings())) - set(LARGE)


@pytest.mark.parametrize(("dtype", "card", "bf16", "fp16"), [
    ("float32", (8, 0), True, False), ("bfloat16", (8, 9), True, False), ("float16", (8, 0), False, True),
    ("float32", (7, 5), False, True), ("bfloat16", (7, 5), True, False)])
def test_the_arithmetic_on_a_gpu(dtype: str, card: tuple, bf16: bool, fp16: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: card)
    options = trainer.shared_options(GRPOSettings(dtype=dtype), "x")
    assert (options["bf16"], options["fp16"], options["use_cpu"]) == (bf16, fp16, False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = trainer.shared_options(GRPOSettings(dtype=dtype), "x")
    assert (options["bf16"], options["fp16"], options["use_cpu"]) == (False, False, True)


def test_both_methods_take_them_over(tmp_path: Path) -> None:
    large = dict(accumulate=3, schedule="cosine", weight_decay=0.1, checkpointing=True)
    grpo = trainer.grpo_config(GRPOSettings(**large), tmp_path)
    for config in (grpo, sft._sft_config(SFTSettings(**large), tmp_path)):
        assert config.gradient_accumulation_steps == 3 and config.weight_decay == 0.1
        assert config.lr_scheduler_type == "cosine" and config.gradient_checkpointing
        assert config.gradient_checkpointing_kwargs == dict(use_reentrant=False)
    for usual in (trainer.grpo_config(GRPOSettings(), tmp_path), sft._sft_config(SFTSettings(), tmp_path)):
        assert usual.gradient_accumulation_steps == 1 and usual.weight_decay == 0 and not usual.gradient_checkpointing
        assert usual.lr_scheduler_type == "linear" and not usual.fp16 and not usual.bf16


def test_vllm_is_asked_of_trl(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="package vllm"):
        trainer.grpo_config(GRPOSettings(vllm="server"), tmp_path)
    monkeypatch.setattr(trainer, "find_spec", lambda name: object())
    for mode in ("server", "colocate"):
        config = trainer.grpo_config(GRPOSettings(vllm=mode), tmp_path)
        assert config.use_vllm and config.vllm_mode == mode
    assert not trainer.grpo_config(GRPOSettings(), tmp_path).use_vllm


def test_four_bits_are_asked_of_bitsandbytes(monkeypatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="bitsandbytes"):
        models.load(models.tiny_folder(), quantised=True)
    asked = {}
    monkeypatch.setattr(models, "find_spec", lambda name: object())
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.48" if name == "bitsandbytes" else version(name))
    monkeypatch.setattr(models.AutoModelForImageTextToText, "from_pretrained", lambda name, **more: asked.update(more))
    models.load(models.tiny_folder(), torch.float16, quantised=True)
    config = asked["quantization_config"]
    assert isinstance(config, BitsAndBytesConfig) and config.load_in_4bit and config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_compute_dtype == torch.float16
    asked.clear()
    models.load(models.tiny_folder())
    assert "quantization_config" not in asked


def test_four_bits_train_with_the_real_bitsandbytes(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="an extra: pip install visual_rft[quantised]")
    model, _ = models.load(models.tiny_folder(), quantised=True)
    layers = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    packed = {name for name, part in model.named_modules() if isinstance(part, bitsandbytes.nn.Linear4bit)}
    assert packed == {name for name in layers if "language_model" in name} and layers - packed
    rows = miniature.few_shot_rows(shots=1, categories=miniature.FEW_SHOT[:1])
    settings = GRPOSettings(steps=1, prompts=1, group=2, warmup=0, max_completion_length=6, lora_rank=2, quantised=True,
                            dtype="bfloat16", learning_rate=1e-2)
    trained, _ = experiments.fine_tune("grpo", "", rows, settings, tmp_path, rewards=[_uneven])
    start, changed = models.load(models.tiny_folder(), torch.bfloat16)[0].state_dict(), trained.state_dict()
    moved = {name for name in start if not torch.equal(start[name], changed[name])}
    assert moved and all("language_model" in name for name in moved)  # merged onto the start in 16 bits


def test_a_start_in_four_bits_is_loaded_anew_to_be_merged(tmp_path: Path) -> None:
    settings = SFTSettings(lora_rank=2, quantised=True, dtype="bfloat16")
    adapted = models.adapt(models.load(models.tiny_folder(), torch.bfloat16)[0], 2)
    torch.manual_seed(0)
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights)
    merged = experiments._whole(adapted, "", settings)
    expected = adapted.merge_and_unload()
    assert merged is not expected and merged.dtype == torch.bfloat16
    start = models.load(models.tiny_folder(), torch.bfloat16)[0].state_dict()
    assert all(torch.equal(value, merged.state_dict()[name]) for name, value in expected.state_dict().items())
    assert any(not torch.equal(value, start[name]) for name, value in merged.state_dict().items())


def test_the_knobs_of_the_smallest_card_train_together(tmp_path: Path) -> None:
    rows = miniature.few_shot_rows(shots=1, categories=miniature.FEW_SHOT[:2])
    settings = GRPOSettings(steps=2, prompts=1, group=2, warmup=0, max_completion_length=6, beta=0.04, accumulate=2,
                            dtype="float16", lora_rank=2, checkpointing=True, max_pixels=4096, learning_rate=1e-2)
    model, processor = experiments.fine_tune("grpo", "", rows, settings, tmp_path, rewards=[_uneven])
    assert model.dtype == torch.float16 and processor.image_processor.size["longest_edge"] == 4096
    log = read_log(tmp_path / "metrics.csv")
    assert log["step"] == [1, 2] and all(0 < value < 1e4 for value in log["gradient"])
    start, changed = models.load(models.tiny_folder(), torch.float16)[0].state_dict(), model.state_dict()
    moved = {name for name in start if not torch.equal(start[name], changed[name])}
    assert moved and all("language_model" in name for name in moved)
    assert read_json(tmp_path / "config.json")["settings"]["dtype"] == "float16"


def _uneven(completions, **columns) -> list[float]:
    """Rewards that differ within every group."""
    return [number % 2 for number in range(len(completions))]


# ------------------------------------------------------------------------------------------------------- several cards


@pytest.mark.parametrize(("name", "kind"), [
    ("ddp", DistributedType.MULTI_GPU), ("fsdp2", DistributedType.FSDP), ("zero2", DistributedType.DEEPSPEED),
    ("zero3", DistributedType.DEEPSPEED)])
def test_accelerate_reads_its_configurations(name: str, kind: DistributedType) -> None:
    config = load_config_from_file(str(miniature.asset_path(f"accelerate/{name}.yaml")))
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, 8, 1)
    assert config.mixed_precision == "bf16" and config.use_cpu is False
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
        from transformers.models.qwen2_vl import modeling_qwen2_vl

        wrapped = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
        assert all(hasattr(modeling_qwen2_vl, layer) for layer in wrapped)
    if name.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
        assert "UNTESTED" in miniature.asset_path(f"accelerate/{name}.yaml").read_text(encoding="utf-8")
        assert config.deepspeed_config.get("zero3_save_16bit_model", False) == (name == "zero3")


def test_a_size_with_several_devices_has_a_launcher() -> None:
    for recipe in ALL.values():
        for name, size in recipe.sizes.items():
            command = recipes.launch_command(recipe, name, "out")
            assert (size.devices > 1) == bool(size.launch) == command.startswith("accelerate launch")
            words = command.split()
            if size.launch:
                assert Path(words[words.index("--config_file") + 1]).is_file()
            assert command.endswith(" --data FILE") == (not recipe.data.hub)


def test_the_fused_optimiser_of_the_plans_can_be_asked_for(tmp_path: Path) -> None:
    kinds = [trainer.grpo_config(GRPOSettings(fused=fused), tmp_path).optim.value for fused in (False, True)]
    assert kinds == ["adamw_torch", "adamw_torch_fused"]
    assert recorded(GRPOSettings(fused=True))["fused"] and "fused" not in recorded(GRPOSettings())


def test_a_table_is_trained_recipe_by_recipe(monkeypatch, tmp_path: Path, capsys) -> None:
    """Finished trainings are not run again, pictures that have to be fetched are named, a failure ends the table."""
    ran, code = [], [0]
    monkeypatch.setattr(cli.subprocess, "run",
                        lambda words, env: (ran.append(words), SimpleNamespace(returncode=code[0]))[1])
    done = tmp_path / "table3-2b-4shot-sft" / "model"
    done.mkdir(parents=True)
    (done / "model.safetensors").touch()
    words = ["reproduce", "few-shot-detection", "--gpu", "t4", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    said, names = capsys.readouterr().out, list(recipes.table_commands("few-shot-detection", "t4", str(tmp_path)))
    trained = [line[line.index("--recipe") + 1] for line in ran]
    fetched = [name for name in names if not recipes.read_recipe(name).data.hub]
    assert trained == [name for name in names if name not in [*fetched, "table3-2b-4shot-sft"]]
    assert "table3-2b-4shot-grpo" in trained and "table4-7b-10shot-grpo" in trained and fetched
    assert "table3-2b-4shot-sft: finished" in said and all(f"{name}: left out" in said for name in fetched)
    for line in ran:  # each is a line that the command line itself understands
        assert cli._parsed(line[1:]).out == str(tmp_path / line[line.index("--recipe") + 1])
    scoring = [shlex.split(line) for line in said.splitlines() if line.startswith("visual-rft evaluate")]
    assert len(scoring) == sum(len(recipes.read_recipe(name).tests) for name in names)
    parsed = [cli._parsed(line[1:]) for line in scoring]
    assert {line.scorer for line in parsed} == {"coco", "lvis-all-ranges"}
    assert "float16" in {line.dtype for line in parsed}
    assert {Path(line.model).parent.name for line in parsed} == set(names)
    code[0] = 1
    assert cli.main(words) == 2 and "goes on where it stopped" in capsys.readouterr().err
    assert cli.main(["reproduce", "probes", "--gpu", "t4"]) == 2
    assert cli.main(["reproduce", "few-shot-detection", "--gpu", "phone"]) == 2
