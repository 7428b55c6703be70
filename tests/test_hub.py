"""Every supported family and every published data set by its name on the hub, against a stand-in on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import FAMILIES, write_checkpoint
from PIL import Image

from visual_rft.data import classification_row, dataset, detection_row
from visual_rft.sources import PUBLISHED

PAPER_PROMPT = (  # the form of the published prompts, which name the category in quotation marks
    "Detect all objects belonging to the category '{}' in the image, and provide the bounding boxes "
    "(between 0 and 1000, integer) and confidence (between 0 and 1, with two decimal places)."
)
CLASSES = ("2012 BMW M3 Coupe", "american_bulldog")


def published_rows(task: str):
    """Rows in the published schema: three columns, two pictures."""
    pictures = [Image.new("RGB", size, "white") for size in ((200, 120), (90, 150))]
    if task == "classification":
        rows = [classification_row(picture, name) for picture, name in zip(pictures, CLASSES)]
    else:
        rows = [detection_row(picture, "fire hydrant", [(100, 200, 500, 1000)]) for picture in pictures]
        rows = [row | dict(problem=PAPER_PROMPT.format("fire hydrant")) for row in rows]
    return dataset(rows).select_columns(["image", "problem", "solution"])


@pytest.fixture(scope="module")
def answers(tokenizer, tmp_path_factory) -> dict:
    """What a session with the stand-in hub found."""
    folder = tmp_path_factory.mktemp("session")
    for family in FAMILIES:
        write_checkpoint(family, tokenizer, folder / "hub" / "models" / "owner" / family)
    for known in PUBLISHED:
        place = folder / "hub" / "datasets" / known.name / "data"
        place.mkdir(parents=True)
        published_rows(known.task).to_parquet(place / "train-00000-of-00001.parquet")
    asked = dict(families=FAMILIES, data=[known.name for known in PUBLISHED])
    (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    session = [sys.executable, str(Path(__file__).with_name("hub_session.py")), str(folder)]
    done = subprocess.run(session, env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_the_whole_way(family: str, answers: dict) -> None:
    found = answers["families"][family]
    assert found["loaded"].lower().replace("_", "").startswith(family.replace("_", ""))
    assert [found[step] for step in ("sft", "grpo", "evaluate", "push")] == [0, 0, 0, 0]
    assert found["same"], "what was uploaded is not what was trained"
    assert f"# somebody/{family}" in found["card"] and "`grpo`" in found["card"] and "owner/" in found["card"]


@pytest.mark.parametrize("known", PUBLISHED, ids=lambda known: known.name.split("/")[1])
def test_a_published_set_goes_the_whole_way_by_name(known, answers: dict) -> None:
    found = answers["data"][known.name]
    assert (found["rows"], found["task"]) == (2, known.task)
    assert [found[step] for step in ("sft", "grpo", "evaluate")] == [0, 0, 0]
    assert ("accuracy" if known.task == "classification" else "AP50") in found["scores"]
    assert found["categories"] == (sorted(CLASSES) if known.task == "classification" else ["fire hydrant"])


def test_nothing_else_was_asked_of_the_hub(answers: dict) -> None:
    """Requests that the stand-in could not answer, apart from one that huggingface_hub sends out of curiosity."""
    assert [request for request in answers["unknown"] if "agent-harnesses" not in request] == []
