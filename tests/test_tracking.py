"""Trackers: what TensorBoard, wandb and trackio are sent, what they show of hostile texts, and what is refused."""

import importlib
import inspect
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from visual_rft import miniature, tracking
from visual_rft.cli import main
from visual_rft.experiments import fine_tune
from visual_rft.groups import Group, draw_group, read_groups
from visual_rft.records import read_json, read_log
from visual_rft.settings import GRPOSettings, SFTSettings

ROWS = miniature.few_shot_rows(1, 0, miniature.FEW_SHOT[:2])
HOSTILE = [
    "![x](http://example.org/x.png)", "<img src=http://example.org/x.png>", "<script>alert(1)</script>",
    "```\n![x](http://example.org/x.png)", "\r![x](http://example.org/x.png)\r\n[go](http://example.org)",
    "\n\n![x](http://example.org/x.png)", "\n\n\x0b![x](http://example.org/x.png)\n\x85[go](http://example.org)",
    "</pre></code><img src=x onerror=alert(1)>",
    "\u2028* [go](http://example.org)\n\t* <a href=javascript:alert(1)>x</a>",
    "[x]: http://example.org\n[x]", "\x02\x03klzzwxh:0000\x03 <img src=x>", "x" * 9999 + "\n![x](http://example.org/x.png)",
]  # fmt: skip


def group_of(texts: list[str], problem: str = "Find every bus.") -> Group:
    zeros = [0.0] * len(texts)
    return Group(10, "detection", problem, "<answer>No Objects</answer>", (1000, 1000), texts, dict(iou=zeros), zeros)


def events_of(folder: Path) -> EventAccumulator:
    (place,) = (folder / "runs").iterdir()
    return EventAccumulator(str(place), size_guidance=dict(images=0, tensors=0)).Reload()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of GRPO that is watched in TensorBoard, with keys in the environment."""
    folder = tmp_path_factory.mktemp("watched")
    settings = GRPOSettings(steps=1, prompts=2, group=2, max_completion_length=16, report="tensorboard")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "HF_TOKEN"):
            patch.setenv(name, "a-secret-key")
        fine_tune("grpo", "", ROWS, settings, folder, "visual-rft grpo --report tensorboard")
    return folder


def test_tensorboard_gets_curves_pictures_and_texts(watched: Path) -> None:
    events, kept = events_of(watched), read_groups(watched)
    assert events.Tags()["images"] == ["groups/1", "groups/2"] and len(kept) == 2
    reward = read_log(watched / "metrics.csv")["reward"]
    assert [point.value for point in events.Scalars("train/reward")] == pytest.approx(reward, 1e-4)
    pictures = {row["problem"]: row["image"] for row in ROWS}
    for place, group in enumerate(kept, start=1):
        sent = Image.open(io.BytesIO(events.Images(f"groups/{place}")[0].encoded_image_string))
        assert np.array_equal(np.asarray(sent), np.asarray(draw_group(pictures[group.problem], group)))
        (text,) = events.Tensors(f"groups/{place}/text_summary")
        assert text.tensor_proto.string_val[0].decode() == tracking.group_text(group)


def test_no_key_and_no_tracker_in_a_record(watched: Path) -> None:
    files = [path for path in watched.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if b"a-secret-key" in path.read_bytes()]
    assert "report" not in read_json(watched / "config.json")["settings"]


def test_a_training_that_nobody_watches_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "draw_group", lambda *values: pytest.fail("drawn for nobody"))
    fine_tune("grpo", "", ROWS, GRPOSettings(steps=1, prompts=2, group=2, max_completion_length=8), tmp_path)
    assert read_groups(tmp_path) and not (tmp_path / "runs").exists()


def test_sft_is_watched_too(tmp_path: Path) -> None:
    fine_tune("sft", "", ROWS, SFTSettings(steps=1, batch=2, report="tensorboard"), tmp_path)
    assert events_of(tmp_path).Scalars("train/loss")[0].step == 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_modules_get_pictures_with_texts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, kind = [], INTEGRATION_TO_CALLBACK[name]
    module = SimpleNamespace(log=sent.append, Image=lambda picture, caption: (picture, caption))
    monkeypatch.setitem(sys.modules, name, module)
    groups = [(group_of(["a", "b"]), ROWS[0]["image"]), (group_of(["c"]), ROWS[1]["image"])]
    tracking.send_groups([kind.__new__(kind)], groups)
    assert [list(entry) for entry in sent] == [["groups/1", "groups/2", "train/global_step"]]
    assert sent[0]["train/global_step"] == 10
    for tag, (group, picture) in zip(("groups/1", "groups/2"), groups, strict=True):
        assert sent[0][tag][0].tobytes() == draw_group(picture, group).tobytes()
        assert sent[0][tag][1] == tracking.group_text(group)


def test_the_trainer_uses_the_callbacks_that_we_know() -> None:
    known = {"tensorboard": TensorBoardCallback, **{name: kind for kind, name in tracking._MODULES.items()}}
    assert known == {name: INTEGRATION_TO_CALLBACK[name] for name in tracking.TRACKERS}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_real_modules_still_have_what_is_called(name: str) -> None:
    module = pytest.importorskip(name)
    inspect.signature(module.Image.__init__).bind(None, Image.new("RGB", (8, 8)), caption="a")
    log = inspect.signature(module.Run.log if name == "wandb" else module.log)  # wandb.log is that of the run
    log.bind(*([None] if name == "wandb" else []), {"a": 1})


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["completion", "question"])
def test_hostile_texts_are_shown_as_texts(text: str, place: str) -> None:
    group = group_of([text, "fine"]) if place == "completion" else group_of(["fine"], problem=text)
    shown = markdown_to_safe_html(tracking.group_text(group))
    assert set(re.findall(r"</?(\w+)", shown)) <= {"p", "strong", "pre", "code"}
    assert len(shown) < 10_000


def test_without_care_they_would_not_be() -> None:
    assert sum("<img" in markdown_to_safe_html(text) or "<a" in markdown_to_safe_html(text) for text in HOSTILE) > 5


@pytest.mark.parametrize("how", [None, SimpleNamespace(origin=None)], ids=["nothing", "a folder"])
def test_a_tracker_that_is_missing_is_refused_before_a_model_is_loaded(
    how: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: how)
    monkeypatch.setattr("visual_rft.models.load", lambda *values: pytest.fail("loaded"))
    assert main(["grpo", "--report", "wandb", "--steps", "1", "--out", str(tmp_path), "--threads", "1"]) == 2
    message = capsys.readouterr().err
    assert message == "visual-rft: error: reporting to wandb needs the package wandb, which is not installed\n"
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'; expected one of tensorboard, wandb, trackio"):
        tracking.chosen_trackers("tensorbord")


def test_installed_trackers_are_found() -> None:
    assert tracking.chosen_trackers("tensorboard, tensorboard") == ["tensorboard"] * 2
    assert importlib.util.find_spec("tensorboard").origin
