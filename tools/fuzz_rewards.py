"""Try to break the rewards with random completions; the record goes to data/runs/fuzz.

    python tools/fuzz_rewards.py --count 1000000 --out data/runs/fuzz

Every completion is scored by all rewards of the sets `robust` and `paper` for its task. An exception, a value that is
not a finite number from 0 to 1, or a call that takes over 50 ms of processor time ends the run with its text.
"""

import argparse
import math
import random
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from visual_rft import prompts
from visual_rft.parsing import TAGS
from visual_rft.records import start_run, write_json
from visual_rft.rewards import REWARD_SETS

SETS = ("robust", "paper")
BOXES = [[100, 100, 300, 300], [500, 500, 700, 900]]
SOLUTIONS = {
    "detection": [prompts.completion(prompts.detection_answer(boxes)) for boxes in (BOXES, BOXES[:1], [])],
    "classification": [prompts.completion(name) for name in ("hot dog", "737-200", "É.* (a|b)+$")],
    "grounding": [prompts.completion(prompts.grounding_answer(box)) for box in BOXES],
}
VALID = {
    "detection": prompts.completion(prompts.detection_answer(BOXES, [0.9, 0.4]), "two of them"),
    "classification": prompts.completion("hot dog", "a sausage"),
    "grounding": prompts.completion(prompts.grounding_answer(BOXES[0]), "there"),
}
PIECES = [
    *TAGS, *"{}[]()'\",:`\\.-+eE\n\t ", "NaN", "-Infinity", "Infinity", "1e999", "-1e999", "1e308", "1e-400", "-1",
    "0", "100", "9" * 30, "9" * 5000, "\0", "\x1b[31m", "\u202e", "\ufeff", "\ud800", "²", "٣", "１２", "null", "true",
    "None", "No Objects", "'Position'", "'Confidence'", "[1, 2, 3, 4]", "[100, 100, 300, 300]", "(1,2),(3,4)",
    "```json", "<|im_end|>",
]  # fmt: skip
LIMIT = 0.050  # seconds of processor time


def any_text(rng: random.Random, length: int) -> str:
    """Random characters: half of them ASCII, the others from all of Unicode, half surrogates included."""
    return "".join(chr(rng.randrange(128 if rng.random() < 0.5 else 0x110000)) for _ in range(length))


def mutated(rng: random.Random, text: str) -> str:
    """A valid completion with one to eight random edits."""
    letters = list(text)
    for _ in range(rng.randint(1, 8)):
        place, piece = rng.randrange(len(letters)), rng.choice(PIECES)
        letters[place] = rng.choice(["", piece, piece + letters[place], any_text(rng, 1)])
    return "".join(letters)


def assembled(rng: random.Random) -> str:
    """Pieces in any order, mostly between answer tags."""
    text = "".join(rng.choices(PIECES, k=rng.randint(1, 60)))
    return text if rng.random() < 0.2 else f"<think>a</think><answer>{text}</answer>"


def nested(rng: random.Random) -> str:
    """Brackets inside brackets, closed or not."""
    depth = rng.randint(1, 30_000)
    opening, closing = rng.choice(["[]", "{}", "()", ("{'Position': ", "}"), ("<answer>", "</answer>")])
    return "<think>a</think><answer>" + opening * depth + "1" + closing * rng.choice([0, depth, depth // 2])


def long(rng: random.Random) -> str:
    """A megabyte of one piece or of noise that repeats."""
    piece = rng.choice([*PIECES, any_text(rng, 40), VALID["detection"]])
    return rng.choice(["", "<think>a</think><answer>", "<think>"]) + piece * (1_000_000 // len(piece) + 1)


def completion(rng: random.Random, task: str) -> tuple[str, str]:
    """A kind of attack, and a text of that kind."""
    draw = rng.random()
    if draw < 0.0005:
        return "a megabyte", long(rng)
    if draw < 0.005:
        return "deep nesting", nested(rng)
    if draw < 0.3:
        return "random text", any_text(rng, rng.randint(0, 200))
    if draw < 0.5:
        return "pieces", assembled(rng)
    return "mutated", mutated(rng, VALID[task])


def check(task: str, text: str, solution: str) -> float:
    """Score one completion by every reward; the largest processor time of a call. Raises when a promise is broken."""
    slowest = 0.0
    for kind in SETS:
        for reward in REWARD_SETS[kind][task]:
            started = time.thread_time()
            value, = reward(completions=[text], solution=[solution])
            slowest = max(slowest, time.thread_time() - started)
            if not (isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"{reward.__name__} gave {value!r}")
    if slowest > LIMIT:
        raise ValueError(f"a call took {1000 * slowest:.0f} ms")
    return slowest


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="data/runs/fuzz")
    options = parser.parse_args()
    config = dict(task="fuzz", method="rewards", model="", shots=0, seed=options.seed, count=options.count,
                  command=shlex.join(["python", *sys.argv]))
    folder, rng = start_run(Path(options.out), config), random.Random(options.seed)
    kinds, slowest, started = Counter(), {}, time.perf_counter()
    for number in tqdm(range(options.count), mininterval=2):
        task = list(VALID)[number % 3]
        kind, text = completion(rng, task)
        try:
            took = check(task, text, rng.choice(SOLUTIONS[task]))
        except Exception as error:
            raise SystemExit(f"completion {number} ({kind}, {task}): {error!r}\n{text[:500]!r}") from error
        kinds[kind] += 1
        slowest[kind] = max(slowest.get(kind, 0.0), took)
    write_json(folder / "summary.json", dict(
        completions=options.count, exceptions=0, outside_0_to_1=0, kinds=dict(kinds),
        slowest_call_ms={kind: round(1000 * value, 2) for kind, value in slowest.items()},
        seconds=round(time.perf_counter() - started, 1)))
    print((folder / "summary.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
