"""The four studies: splits that never touch or change, questions with one answer, a lesson that gives nothing away."""

import json
from pathlib import Path

import pytest

from visual_rft import studies
from visual_rft.experiments import data_hash
from visual_rft.miniature import BASE, FEW_SHOT, NOVEL
from visual_rft.studies import QUESTIONS, STUDIES, TRAINED_QUESTIONS, UNSEEN_QUESTIONS

FROZEN = Path(__file__).with_name("studies.json")
RUNS = Path(__file__).parents[1] / "data" / "runs" / "studies"


def pictures(rows) -> set[bytes]:
    return {image.tobytes() for image in rows["image"]}


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    """Training rows of two seeds, validation rows and test rows of every study."""
    found = {}
    for name, study in STUDIES.items():
        found[name] = {"seed 0": study.train(1, 0, True), "seed 1": study.train(1, 1, True)}
        found[name] |= {"validation": study.validation(True)} | {test: make(True) for test, make in study.tests.items()}
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_no_picture_is_in_two_sets(name: str, rows: dict) -> None:
    sets = {part: pictures(each) for part, each in rows[name].items()}
    for one in sets:
        for other in sets:
            assert one == other or not sets[one] & sets[other], f"{one} and {other} share pictures"


def test_the_splits_are_those_of_the_records(rows: dict) -> None:
    found = {name: {part: data_hash(each) for part, each in parts.items()} for name, parts in rows.items()}
    assert found == json.loads(FROZEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("seed", (0, 1))
@pytest.mark.parametrize("name", STUDIES)
def test_recorded_runs_learnt_from_these_rows(name: str, seed: int) -> None:
    path = RUNS / name / f"shots-1-seed-{seed}" / "grpo" / "config.json"
    if path.is_file():  # not every study has a record of one shot
        frozen = json.loads(FROZEN.read_text(encoding="utf-8"))[name][f"seed {seed}"]
        assert json.loads(path.read_text(encoding="utf-8"))["data_hash"] == frozen


def test_training_and_test_ask_for_what_they_say(rows: dict) -> None:
    asked = {name: {part: set(each["category"]) for part, each in parts.items()} for name, parts in rows.items()}
    assert asked["few-shot-detection"]["seed 0"] == set(FEW_SHOT) == asked["few-shot-detection"]["few-shot"]
    opened = asked["open-vocabulary"]
    assert opened["seed 0"] == set(BASE) and opened["novel"] == set(NOVEL) and len(NOVEL) >= 15
    assert not opened["rare"] & set(BASE + NOVEL) and not set(BASE) & set(NOVEL)
    assert len(asked["few-shot-classification"]["seed 0"]) >= 40
    assert asked["few-shot-classification"]["unseen artists"] == asked["few-shot-classification"]["seed 0"]


def test_both_forms_of_a_row_differ_in_the_question_only() -> None:
    for study in STUDIES.values():
        asked, plain = (study.validation(thinking) for thinking in (True, False))
        assert asked["solution"] == plain["solution"] and pictures(asked) == pictures(plain)
        assert all("<think>" in text for text in asked["problem"]) and not any("<think>" in t for t in plain["problem"])


def test_questions_are_many_and_split() -> None:
    assert len(QUESTIONS) >= 60 and len(set(QUESTIONS)) == len(QUESTIONS)
    assert not set(TRAINED_QUESTIONS) & set(UNSEEN_QUESTIONS) and len(UNSEEN_QUESTIONS) >= 15
    assert any("lightning" in question.text for question in QUESTIONS)
    for question in QUESTIONS:
        assert not any(answer in question.text.lower().split() for answer in question.answers)


@pytest.mark.parametrize("number", range(0, len(QUESTIONS), 9))
def test_a_scene_has_one_answer_and_nothing_arguable(number: int) -> None:
    question = QUESTIONS[number]
    for seed in range(3):
        scene, answer = studies.question_scene(question, seed, ("train",))
        labels = [label for label, _ in scene.objects]
        assert labels.count(answer) == 1 and sum(label in question.answers for label in labels) == 1
        assert not set(labels) & set(question.exclude) and 2 <= len(labels) <= 4


def test_the_lesson_in_reading_gives_no_answer_away() -> None:
    lesson = studies.reading_rows(300, seed=5)
    answers = {question.text: question.answers for question in QUESTIONS}
    paired = [row["category"] in answers[text] for row in lesson for text in answers if text in row["problem"]]
    assert 180 < len(paired) < 260  # three in four have a question before the hint
    assert sum(paired) < 0.1 * len(paired)  # which is answered by the named thing by chance only
    unseen = [question.text for question in UNSEEN_QUESTIONS]
    assert not any(text in problem for text in unseen for problem in lesson["problem"])


def test_every_study_starts_from_a_model_that_ships() -> None:
    from visual_rft.models import SHIPPED, tiny_folder
    from visual_rft.settings import GRPOSettings

    for study in STUDIES.values():
        assert study.start in SHIPPED and (Path(tiny_folder(study.start)) / "model.safetensors").is_file()
        GRPOSettings(**study.grpo)  # known knobs only
