"""Write the digests of every benchmark and of 25 scenes, which the tests hold for good.

Run it only when a benchmark is changed on purpose:  python tools/freeze_benchmarks.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from visual_rft import miniature

ROOT = Path(__file__).parents[1]


def digest_of(name: str) -> str:
    """sha256 over the pixels, problems and solutions of a benchmark."""
    digest = hashlib.sha256()
    for row in miniature.benchmark(name):
        digest.update(np.asarray(row["image"]).tobytes() + row["problem"].encode() + row["solution"].encode())
    return digest.hexdigest()


if __name__ == "__main__":
    digests = {name: digest_of(name) for name in miniature.BENCHMARKS}
    (ROOT / "data" / "assets" / "benchmarks.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    groups = miniature.sprites_by_label(miniature.find_sprites("bank3d", "base"))
    scenes = "".join(miniature.random_scene(seed, groups).digest() for seed in range(25))
    text = hashlib.sha256(scenes.encode()).hexdigest() + "  25 scenes of base categories, seeds 0 to 24\n"
    (ROOT / "tests" / "scenes.sha256").write_text(text, encoding="utf-8")
