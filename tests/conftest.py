"""Shared fixtures: a tiny random model of each family, and the threads of a worker."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
THREADS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # of programs that tests start

import pytest
import torch

torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def tokenizer():
    from visual_rft.models import train_tokenizer
    from visual_rft.pretraining import class_names, tokenizer_corpus

    return train_tokenizer(tokenizer_corpus(200), class_names())


@pytest.fixture(scope="session", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def tiny(request, tokenizer):
    """A small random model and its processor, of each family in turn."""
    from visual_rft.models import tiny_processor, tiny_vlm

    model = tiny_vlm(tokenizer, request.param, width=64, layers=2, vision_width=32, vision_layers=2)
    return model.eval(), tiny_processor(tokenizer, request.param)


@pytest.fixture(scope="session")
def tiny_folder(tokenizer, tmp_path_factory):
    """A small random Qwen3-VL on disk, to be loaded by name."""
    from visual_rft.models import tiny_processor, tiny_vlm

    folder = tmp_path_factory.mktemp("model")
    tiny_vlm(tokenizer, width=64, layers=2, vision_width=32, vision_layers=2).save_pretrained(folder)
    tiny_processor(tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_one(tokenizer):
    """A small random Qwen3-VL and its processor, for what need not be tried with every family."""
    from visual_rft.models import tiny_processor, tiny_vlm

    model = tiny_vlm(tokenizer, width=64, layers=2, vision_width=32, vision_layers=2)
    return model.eval(), tiny_processor(tokenizer)
