"""Compare `protocols.lvis_ap` with the authors' own scorer on random annotations and results, and keep a record.

    pip install lvis
    python tools/compare_lvis.py data/runs/lvis
"""

import json
import math
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from lvis import LVIS, LVISEval, LVISResults

from visual_rft.protocols import lvis_ap, open_truth
from visual_rft.records import start_run, write_json

np.float = float  # lvis 0.5.3 uses a name that numpy has dropped
CATEGORIES, PICTURES, SETS = range(1, 6), range(1, 31), 20


def made_up(seed: int) -> tuple[dict, list[dict]]:
    """Random federated annotations, and results that are near the truth, far from it, or about unchecked categories."""
    draw = random.Random(seed)
    images, truths = [], []
    for image in PICTURES:
        present = draw.sample(CATEGORIES, draw.randint(0, 3))
        absent = [category for category in CATEGORIES if category not in present]
        images.append(dict(id=image, width=400, height=300, file_name="", coco_url="",
                           neg_category_ids=draw.sample(absent, draw.randint(0, len(absent))),
                           not_exhaustive_category_ids=[name for name in present if draw.random() < 0.3]))
        for category in present * 2:
            x, y, w, h = (draw.randint(*ends) for ends in ((0, 300), (0, 200), (3, 100), (3, 100)))
            truths.append(dict(id=len(truths) + 1, image_id=image, category_id=category, bbox=[x, y, w, h], area=w * h,
                               iscrowd=0, segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]))
    near = [(t["image_id"], t["category_id"], [max(1, side + draw.randint(-9, 9)) for side in t["bbox"]])
            for t in truths for _ in range(draw.randint(0, 2))]
    far = [(draw.choice(PICTURES), draw.choice(CATEGORIES), [draw.randint(1, 200) for _ in range(4)])
           for _ in range(100)]
    results = [dict(image_id=i, category_id=c, bbox=box, score=draw.random()) for i, c, box in near + far]
    names = [dict(id=c, name=f"c{c}", frequency="r", synset="", synonyms=[]) for c in CATEGORIES]
    return dict(images=images, annotations=truths, categories=names, info={}, licenses=[]), results


def theirs(file: Path, results: list[dict]) -> dict[str, dict[str, float]]:
    """AP of each category by lvis-api: over all sizes, and averaged over the four size ranges."""
    truth = LVIS(str(file))
    scorer = LVISEval(truth, LVISResults(truth, json.loads(json.dumps(results)), max_dets=300), "bbox")
    scorer.run()
    found = {"all": {}, "all-ranges": {}}
    for place, category in enumerate(CATEGORIES):
        for areas, precision in (("all", scorer.eval["precision"][:, :, place, 0]),
                                 ("all-ranges", scorer.eval["precision"][:, :, place, :])):
            known = precision[precision > -1]
            found[areas][f"c{category}"] = float(known.mean()) if known.size else math.nan
    return found


def main(folder: str) -> None:
    """Score all sets by both and write the largest difference."""
    start_run(folder, dict(task="lvis scorer", method="comparison", sets=SETS, lvis=version("lvis"),
                           command="python tools/compare_lvis.py data/runs/lvis"))
    worst, compared = 0.0, 0
    for seed in range(SETS):
        content, results = made_up(seed)
        file = Path(tempfile.mkdtemp()) / "truth.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        truth = open_truth(file)
        for areas, expected in theirs(file, results).items():
            ours = lvis_ap(truth, results, list(expected), areas)
            for name, value in expected.items():
                both_missing = math.isnan(value) and math.isnan(ours[name])
                worst, compared = max(worst, 0.0 if both_missing else abs(value - ours[name])), compared + 1
    write_json(Path(folder) / "summary.json", dict(compared=compared, largest_difference=worst))
    print(f"{compared} values compared, largest difference {worst}")


if __name__ == "__main__":
    main(sys.argv[1])
