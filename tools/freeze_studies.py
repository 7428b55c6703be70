"""Write the hashes of the rows of all studies to tests/studies.json, by which a test notices any change of a split:

    python tools/freeze_studies.py
"""

import json
from pathlib import Path

from visual_rft.experiments import data_hash
from visual_rft.studies import STUDIES

TARGET = Path(__file__).parents[1] / "tests" / "studies.json"

if __name__ == "__main__":
    hashes: dict[str, dict[str, str]] = {}
    for name, study in STUDIES.items():
        sets = {"seed 0": study.train(1, 0, True), "seed 1": study.train(1, 1, True)}
        sets |= {"validation": study.validation(True)} | {test: make(True) for test, make in study.tests.items()}
        hashes[name] = {part: data_hash(rows) for part, rows in sets.items()}
    TARGET.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
