"""A test that processes share, as they are started by torchrun.

    torchrun --nproc-per-node 2 tests/two_answerers.py FOLDER ROWS
"""

import sys

import torch

from visual_rft import miniature, models
from visual_rft.protocols import answer_sharded

OPTIONS = dict(batch=2, max_new_tokens=40)


def main(folder: str, count: str) -> None:
    """Answer scenes of the miniature with the tiny VLM that ships; every process must see all answers."""
    torch.set_num_threads(1)
    rows = miniature.test_rows(count=int(count), negatives=0, thinking=False)
    texts = answer_sharded(*models.load(models.tiny_folder()), rows, folder, **OPTIONS)
    assert len(texts) == len(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
