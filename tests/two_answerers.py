"""A test that processes share, as they are started by torchrun.

    torchrun --nproc-per-node 2 tests/two_answerers.py FOLDER ROWS rows|blocks

Either each process answers some rows, or all answer all rows and each holds a share of every block.
"""

import sys

import torch
from torch.distributed.tensor import DTensor

from visual_rft import miniature, models
from visual_rft.protocols import answer_sharded, answer_together

OPTIONS = dict(batch=2, max_new_tokens=40)


def main(folder: str, count: str, shared: str) -> None:
    """Answer scenes of the miniature with the tiny VLM that ships; every process must see all answers."""
    torch.set_num_threads(1)
    rows = miniature.test_rows(count=int(count), negatives=0, thinking=False)
    model, processor = models.load(models.tiny_folder())
    answer = dict(rows=answer_sharded, blocks=answer_together)[shared]
    assert len(answer(model, processor, rows, folder, **OPTIONS)) == len(rows)
    halves = [weights for weights in model.parameters() if isinstance(weights, DTensor)]
    assert bool(halves) == (shared == "blocks") and all(w.to_local().numel() < w.numel() for w in halves)


if __name__ == "__main__":
    main(*sys.argv[1:])
