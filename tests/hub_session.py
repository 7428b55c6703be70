"""What a user does with the hub, against a stand-in for it: HF_ENDPOINT must be set before anything is imported.

    python hub_session.py FOLDER    FOLDER is empty; the answers are written to FOLDER/answers.json
"""

import json
import os
import sys
import warnings
from pathlib import Path

from hub import serve


def family_session(family: str, folder: Path) -> dict:
    """Fine-tune a checkpoint of the hub by both methods on published data, test it, give it away, and load it again."""
    import torch

    from visual_rft import models
    from visual_rft.cli import main

    name, data = f"owner/{family}", "laolao77/ViRFT_COCO_8_cate_4_shot"
    few = "--steps 1 --save-every 1 --threads 1".split()
    found = dict(loaded=type(models.load(name)[0]).__name__)
    grpo = "--prompts 2 --group 2 --max-completion-length 8 --lora-rank 2"
    for method, more in (("sft", "--batch 2"), ("grpo", grpo)):
        place = folder / f"{family}-{method}"
        found[method] = main([method, "--model", name, "--data", data, *few, *more.split(), "--out", str(place)])
    found["evaluate"] = main(["evaluate", "--model", str(place / "model"), "--data", data, "--threads", "1",
                              "--out", str(folder / f"{family}-test")])
    found["push"] = main(["push", str(place), f"somebody/{family}"])
    mine, again = models.load(str(place / "model"))[0], models.load(f"somebody/{family}")[0]
    found["same"] = all(torch.equal(a, b) for a, b in zip(mine.parameters(), again.parameters(), strict=True))
    found["card"] = (folder / "hub" / "models" / "somebody" / family / "README.md").read_text(encoding="utf-8")
    return found


def data_session(name: str, folder: Path) -> dict:
    """Load a published set by name, take a step of each training on it, and test a model on it."""
    from visual_rft.cli import main
    from visual_rft.data import load_rows

    rows, place = load_rows(name), folder / name
    found = dict(rows=len(rows), task=rows["task"][0], categories=sorted(set(rows["category"])))
    shared = ["--model", "owner/qwen2_vl", "--data", name, "--threads", "1"]
    for method, more in (("sft", "--batch 2"), ("grpo", "--prompts 1 --group 2 --max-completion-length 4")):
        options = f"--steps 1 --save-every 1 {more} --out {place / method}"
        found[method] = main([method, *shared, *options.split()])
    found["evaluate"] = main(["evaluate", *shared, "--out", str(place / "test")])
    found["scores"] = sorted(json.loads((place / "test" / "summary.json").read_text(encoding="utf-8")))
    return found


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    with serve(folder / "hub") as (address, unknown):
        os.environ |= dict(HF_ENDPOINT=address, HF_HOME=str(folder / "home"), HF_TOKEN="hf_somebody",
                           HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        import torch

        torch.set_num_threads(1)
        asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
        answers = dict(families={family: family_session(family, folder) for family in asked["families"]},
                       data={name: data_session(name, folder) for name in asked["data"]}, unknown=unknown)
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
