"""How many detection completions a second the rewards score, three boxes each, on one core:

    python tools/bench_rewards.py --out data/runs/reward-throughput

Every completion is new, a solution is shared by a group of 8, a batch holds 512. The sets take turns, so that a busy
machine slows both. Printed are medians of processor time, and the ratio to the published rewards, rebuilt.
"""

import argparse
import json
import shlex
import statistics
import sys
import time

import numpy as np

from visual_rft import prompts
from visual_rft.records import start_run, write_json
from visual_rft.rewards import REWARD_SETS

COUNT, GROUP, BATCH, ROUNDS = 4096, 8, 512, 7


def boxes(random: np.random.RandomState) -> list[list[int]]:
    """Three random boxes in thousandths."""
    corners = np.sort(random.randint(0, 1000, (3, 2, 2)), axis=1) + [[[0, 0], [1, 1]]]
    return corners.reshape(3, 4).tolist()


def batch(seed: int) -> tuple[list[str], list[str]]:
    """Completions that think and state confidences, and their solutions, one for each group."""
    random = np.random.RandomState(seed)
    said = [prompts.completion(prompts.detection_answer(boxes(random), random.uniform(0, 1, 3)), "I see three of them.")
            for _ in range(COUNT)]
    true = [prompts.completion(prompts.detection_answer(boxes(random))) for _ in range(COUNT // GROUP)]
    return said, [text for text in true for _ in range(GROUP)]


def rate(kind: str, said: list[str], true: list[str]) -> float:
    """Completions a second of processor time, all three rewards together."""
    started = time.process_time()
    for start in range(0, COUNT, BATCH):
        part = slice(start, start + BATCH)
        for reward in REWARD_SETS[kind]["detection"]:
            reward(completions=said[part], solution=true[part])
    return COUNT / (time.process_time() - started)


def main() -> None:
    """Measure, print and, where asked to, record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", help="folder of the run record; none when left out")
    options = parser.parse_args()
    rates = {"robust": [], "released": []}
    for number in range(ROUNDS + 1):
        for kind in rates:
            rates[kind].append(rate(kind, *batch(number)))
    medians = {kind: statistics.median(values[1:]) for kind, values in rates.items()}  # the first round warms up
    result = {f"{kind}_completions_per_second": round(value) for kind, value in medians.items()}
    result["robust_over_released"] = round(medians["robust"] / medians["released"], 2)
    if options.out:
        folder = start_run(options.out, dict(task="throughput", method="rewards", model="", shots=0, seed=0,
                                             command=shlex.join(["python", *sys.argv])))
        write_json(folder / "summary.json", result | {"rounds": {kind: values[1:] for kind, values in rates.items()}})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
