"""One GRPO step by plain gradient descent, to be run under torchrun: writes the trained weights.

    torchrun --nproc-per-node 2 tests/two_processes.py START OUT plain|fsdp

The completions depend on the prompt and the place in the group alone, so one process and two see the same batch.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig

from visual_rft import miniature
from visual_rft.packing import ATTENTION
from visual_rft.trainer import VisualGRPOTrainer, chat_rows


def written(prompt_ids: list[list[int]]) -> list[list[int]]:
    """Completions of different lengths."""
    return [[100 + (sum(ids) + 7 * n) % 50 for n in range(2 + row % 4)] + [2] for row, ids in enumerate(prompt_ids)]


def pay(completions, **columns) -> list[float]:
    return [len(text[0]["content"]) % 5 / 4 for text in completions]


def shard_on_cpu(trainer: VisualGRPOTrainer) -> None:
    """Let accelerate shard by FSDP2 without a GPU, where it would otherwise leave it aside in silence."""
    trainer.accelerator.state.distributed_type = DistributedType.FSDP
    trainer.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", state_dict_type="FULL_STATE_DICT",
        transformer_cls_names_to_wrap=["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"],
    )
    trainer.is_fsdp_enabled = True


def main(start: str, out: str, mode: str) -> None:
    """Train one step and write the weights."""
    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(start, dtype=torch.float32)
    each = 8 // int(os.environ.get("WORLD_SIZE", 1))
    several = dict(ddp_backend="gloo") if "WORLD_SIZE" in os.environ else {}
    config = GRPOConfig(
        output_dir=str(Path(out).with_suffix("")), max_steps=1, per_device_train_batch_size=each, num_generations=4,
        max_completion_length=8, learning_rate=1.0, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0,
        beta=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
        seed=0, **several,
    )
    trainer = VisualGRPOTrainer(
        model=model, processing_class=AutoProcessor.from_pretrained(start), args=config, reward_funcs=[pay],
        train_dataset=chat_rows(miniature.test_rows(count=2, negatives=0)),
    )
    if mode == "fsdp":
        shard_on_cpu(trainer)
    trainer._generate_single_turn = lambda prompt_ids, *more: (written(prompt_ids), None)
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    assert model.config.text_config._attn_implementation == ATTENTION  # scored packed
    assert all(isinstance(p, DTensor) for p in model.parameters()) == (mode == "fsdp")
    weights = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in model.named_parameters()}
    if trainer.accelerator.is_main_process:
        save_file({name: value.detach().clone().contiguous() for name, value in weights.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
