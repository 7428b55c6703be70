"""Break parsing, boxes, rewards and advantages in every small way, and count how often a test notices:

    pip install mutmut==3.8.1
    python tools/mutate_rewards.py --out data/runs/mutation

mutmut writes the broken copies (its settings are in pyproject.toml); `git stash` or commit first, a clone of HEAD is
what gets broken. Written are how many were killed, module by module, and the change that each survivor made.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from visual_rft.records import start_run, write_json

ROOT = Path(__file__).resolve().parents[1]
CAUGHT = ("killed", "timeout", "segfault", "suspicious")


def run(*command: str, cwd: Path) -> str:
    """The output of a command; raises CalledProcessError when it fails."""
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def change(name: str, clone: Path) -> list[str]:
    """The lines that a mutant takes away and puts in."""
    lines = run("mutmut", "show", name, cwd=clone).splitlines()
    return [line for line in lines if line[:1] in ("-", "+") and line[:3] not in ("---", "+++")]


def verdicts(clone: Path) -> dict[str, str]:
    """What became of every mutant."""
    lines = run("mutmut", "results", "--all", "true", cwd=clone).splitlines()
    return dict(line.strip().rsplit(": ", 1) for line in lines if "__mutmut_" in line)


def main() -> None:
    """Break, test and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="data/runs/mutation")
    options = parser.parse_args()
    folder = start_run(options.out, dict(task="mutation", method="rewards", model="", shots=0, seed=0,
                                         command=shlex.join(["python", *sys.argv])))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        run("git", "clone", "--quiet", str(ROOT), str(clone), cwd=ROOT)
        subprocess.run(["mutmut", "run", "--max-children", "2"], cwd=clone, check=True)
        found = verdicts(clone)
        survivors = {name: change(name, clone) for name, verdict in sorted(found.items()) if verdict not in CAUGHT}
    modules = {}
    for name, verdict in found.items():
        modules.setdefault(name.split(".")[1], Counter())["caught" if verdict in CAUGHT else "survived"] += 1
    caught = len(found) - len(survivors)
    write_json(folder / "summary.json", dict(
        mutants=len(found), caught=caught, share_caught=round(caught / len(found), 4),
        verdicts=dict(Counter(found.values())), modules={name: dict(counts) for name, counts in modules.items()},
        seconds=round(time.perf_counter() - started, 1)))
    write_json(folder / "survivors.json", survivors)
    print((folder / "summary.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
