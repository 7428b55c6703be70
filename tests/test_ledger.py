"""The ledger: all rows of the paper as printed, its slips found by calculation, and records read as they are."""

import statistics
from pathlib import Path

import pytest

from visual_rft import ledger
from visual_rft.cli import _parsed
from visual_rft.ledger import NOT_RECORDED, PAPER, PAPER_ROWS, Comparison, Counterpart, Row, find_row
from visual_rft.recipes import read_recipe
from visual_rft.records import write_json
from visual_rft.reproduce import mean_and_error
from visual_rft.studies import STUDIES

TRAINED = [row for row in PAPER_ROWS if row.method in ("SFT", "Visual-RFT")]
ONE_SHOT = find_row(3, "2B", "1-shot", "Visual-RFT")


def record(folder: Path, **scores: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", scores)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Invented records: detection with its start, two seeds of one shot and one seed of two."""
    study = tmp_path / "few-shot-detection"
    record(study, **{"start": {"AP": 0.05}, "start, plain question": {"AP": 0.1}})
    for shots, seed, sft, grpo in ((1, 0, 0.04, 0.30), (1, 1, 0.06, 0.36), (2, 0, 0.5, 0.4)):
        record(study / f"shots-{shots}-seed-{seed}", SFT={"AP": sft}, GRPO={"AP": grpo}, sft_learning_rate=1e-4)
    return tmp_path


def lines(text: str) -> list[list[str]]:
    """The cells of the rows of a Markdown table, without title and head."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize(("number", "rows", "columns"), [
    (2, 11, 5), (3, 14, 9), (4, 6, 7), (5, 5, 6), (6, 9, 3), (7, 6, 3), (8, 7, 14),
])
def test_every_table_is_whole(number: int, rows: int, columns: int) -> None:
    table = PAPER[number]
    assert (len(table.rows), len(table.columns)) == (rows, columns)
    assert all(tuple(row.values) == table.columns and row.table == number for row in table.rows)
    assert len({(row.model, row.setting, row.method) for row in table.rows}) == rows


@pytest.mark.parametrize(("number", "total"), [
    (2, 3811.6), (3, 4482.4), (4, 767.2), (5, 1343.6), (6, 893.5), (7, 341.1), (8, 1742.4),
])
def test_no_digit_has_changed(number: int, total: float) -> None:
    assert sum(sum(row.values.values()) for row in PAPER[number].rows) == pytest.approx(total)


def test_a_row_of_the_wrong_length_is_refused() -> None:
    for line in ("2B - SFT 4.0", "2B - SFT 4.0 1.0 1.0", "2B - SFT 4.0 x"):
        with pytest.raises(ValueError, match="expected 2 numbers"):
            ledger.parse_table(9, f"title\nmAP | elk\n{line}")


def test_the_slips_are_those_that_are_known() -> None:
    found = {(slip.row.table, slip.row.label, slip.row.method, slip.column, slip.place, slip.printed,
              round(slip.computed, 1)) for slip in ledger.average_slips() + ledger.gain_slips()}
    assert found == {
        (4, "7B 10-shot", "Visual-RFT", "mAP", "table", 33.8, 33.1),
        (8, "2B", "Visual-RFT", "mAP", "table", 20.7, 20.0),
        (5, "2B 16-shot", "Visual-RFT", "feline-or-canid", "table", 56.4, 31.0),
        (6, "2B", "Visual-RFT", "mIoU_val", "radar figure", 4.2, 4.3),
        (6, "7B", "Visual-RFT", "gIoU_test", "table", 5.6, 5.7),
    }
    (one, other, names), = ledger.repeated_scores()
    assert (one, other) == (find_row(4, "7B", "10-shot", "Visual-RFT"), find_row(8, "7B", "-", "Visual-RFT"))
    assert names == ["die", "kitchen table", "omelet", "stepladder"]
    assert len(lines(ledger.slip_table())) == 6


@pytest.mark.parametrize("row", [row for row in PAPER_ROWS if row.table != 6], ids=str)
def test_a_wrong_average_would_be_found(row: Row) -> None:
    column = "mAP_all" if row.table == 7 else PAPER[row.table].measures[0]
    wrong = Row(row.table, row.model, row.setting, row.method, row.values | {column: row.values[column] + 2}, {})
    assert [slip.column for slip in ledger.average_slips([wrong])] == [column]


def test_a_gain_is_over_the_baseline_of_the_same_model() -> None:
    assert ledger.gain_over(find_row(3, "7B", "4-shot", "Visual-RFT"), "mAP") == 11.3
    assert ledger.gain_over(find_row(2, "2B", "8-shot", "Visual-RFT"), "Avg", "SFT") == 24.8
    with pytest.raises(ValueError, match="table 6 of the paper has no row OV-Seg"):
        ledger.gain_over(find_row(6, "OV-Seg", "-", "other"), "mIoU_test")


def test_counterparts() -> None:
    places = {(row.table, row.label, row.method, column): ledger.counterpart(row, column)
              for row in PAPER_ROWS for column in row.values}
    found = {key: place for key, place in places.items() if place}
    assert len(found) == 34 and {key[0] for key in found} == {2, 3, 6, 7, 8}
    assert not any("7B" in key[1] for key in found)
    assert found[2, "2B 16-shot", "SFT", "Avg"] == Counterpart("few-shot-classification", 16, "")
    assert found[6, "2B", "Visual-RFT", "mIoU_test"].key == "mean_iou"
    assert found[7, "2B", "SFT", "mAP_n"] == Counterpart("open-vocabulary", 4, "")
    assert found[7, "2B", "SFT", "mAP_b"].key == "base: AP" and found[8, "2B", "baseline", "mAP"].key == "rare: AP"
    assert all(place.shots in (0, *STUDIES[place.study].shots) for place in found.values())


def test_what_has_no_counterpart_says_why() -> None:
    for row in PAPER_ROWS:
        for column in row.values:
            assert bool(ledger.why_none(row, column)) == (ledger.counterpart(row, column) is None)
    assert "size" in ledger.why_none(find_row(3, "7B", "4-shot", "SFT"), "mAP")
    assert "anime" in ledger.why_none(find_row(5, "2B", "4-shot", "SFT"), "mAP")


def test_means_errors_and_signs_of_two_seeds(runs: Path) -> None:
    found = lines(ledger.ledger_table(runs, 3))
    assert found[0][4] == "10.0 (asked plainly), 5.0 (asked to think)" and found[0][5] == ""
    sft, grpo, alone = found[1], found[2], found[4]
    assert sft[3:8] == ["19.5", "5.0 ± 1.0 (2 seeds)", "-0.1", "-5.0 ± 1.0 (2 seeds)", "yes"]
    assert sft[8:] == ["", "", "", "not run here"]
    assert grpo[3:8] == ["33.6", "33.0 ± 3.0 (2 seeds)", "+14.0", "+28.0 ± 3.0 (2 seeds)", "yes"]
    assert grpo[8:] == ["+14.1", "+28.0 ± 2.0 (2 seeds)", "yes", "not run here"]
    assert alone[4:8] == ["40.0 (one seed)", "+21.9", "+35.0 (one seed)", "unclear (one seed)"]
    assert alone[8:11] == ["+20.5", "-10.0 (one seed)", "unclear (one seed)"]


def test_each_method_is_compared_with_its_own_start(runs: Path) -> None:
    sft = ledger.compare_number(find_row(3, "2B", "1-shot", "SFT"), "mAP", runs)
    grpo = ledger.compare_number(ONE_SHOT, "mAP", runs)
    assert sft.gains == pytest.approx([-0.06, -0.04]) and sft.over_sft == []
    assert grpo.gains == pytest.approx([0.25, 0.31]) and grpo.over_sft == pytest.approx([0.26, 0.30])
    assert ledger.recorded_gains(runs)[:2] == [sft, grpo] and len(ledger.recorded_gains(runs)) == 4


def test_the_plain_question_has_a_line_and_a_start_of_its_own(runs: Path) -> None:
    study = runs / "few-shot-detection"
    for seed, plain in enumerate((0.5, 0.7)):
        cell = dict(SFT={"AP": 0.1 * (seed + 1)}, GRPO={"AP": 0.3}, sft_learning_rate=1e-4)
        record(study / f"shots-4-seed-{seed}", **cell | {"GRPO, plain question": {"AP": plain}})
    row = find_row(3, "2B", "4-shot", "Visual-RFT")
    found = ledger.compare_number(row, "mAP", runs, plain=True)
    assert found.gains == pytest.approx([0.4, 0.6]) and found.over_sft == pytest.approx([0.4, 0.5])
    assert ledger.compare_number(ONE_SHOT, "mAP", runs, plain=True).scores == []
    table = lines(ledger.ledger_table(runs, 3))
    methods = [line[1] for line in table if line[0] == row.label]
    assert methods == ["SFT", "Visual-RFT", "Visual-RFT, plain question"] and len(table) == 14 + 1
    assert table[-1][1] != methods[-1] and [line for line in table if line[1] == methods[-1]][0][4].startswith("60.0 ±")


@pytest.mark.parametrize(("paper", "ours", "verdict"), [
    (14.0, [0.10, 0.12, 0.11], "yes"), (14.0, [-0.10, -0.12, -0.11], "no"), (-4.3, [-0.10, -0.12], "yes"),
    (14.0, [0.30, 0.01, 0.02], "unclear"), (14.0, [0.0, 0.0], "unclear"), (0.0, [0.1, 0.12], "unclear"),
    (14.0, [0.2, 0.2], "yes"), (14.0, [0.9], "unclear (one seed)"), (14.0, [], NOT_RECORDED),
])
def test_verdicts(paper: float, ours: list[float], verdict: str) -> None:
    assert ledger.same_sign(paper, ours) == verdict


def test_two_standard_errors_are_the_limit() -> None:
    for scale, verdict in ((0.99, "unclear"), (1.01, "yes")):
        ours = [-1.0, 0.0, 1.0]  # standard error 3 ** -0.5
        assert ledger.same_sign(1.0, [value + scale * 2 / 3**0.5 for value in ours]) == verdict


def test_percent_is_the_mean_and_error_of_the_studies() -> None:
    values = [0.1, 0.25, 0.31]
    mean, error = map(float, mean_and_error(values).split(" ± "))
    assert ledger.percent(values) == f"{100 * mean:.1f} ± {100 * error:.1f} (3 seeds)"
    assert statistics.mean(values) == pytest.approx(mean, abs=1e-9)


def test_missing_records_say_so(tmp_path: Path) -> None:
    for number, table in PAPER.items():
        rows = [row for row in table.rows for _ in table.measures]
        for row, line in zip(rows, lines(ledger.ledger_table(tmp_path, number)), strict=True):
            known = ledger.counterpart(row, line[2]) is not None
            assert line[4] == (NOT_RECORDED if known else f"none: {ledger.why_none(row, line[2])}")
            expected = "" if row not in TRAINED else NOT_RECORDED if known else "none"
            assert line[6] == line[7] == expected
    assert ledger.recorded_gains(tmp_path) == []
    assert ledger.compare_number(ONE_SHOT, "mAP", tmp_path) == Comparison(ONE_SHOT, "mAP")


def test_a_trained_row_without_a_start_has_a_score_but_no_gain(runs: Path) -> None:
    (runs / "few-shot-detection" / "summary.json").unlink()
    line = lines(ledger.ledger_table(runs, 3))[2]
    assert line[4] == "33.0 ± 3.0 (2 seeds)" and line[6] == line[7] == NOT_RECORDED and line[10] == "yes"


def test_the_start_of_a_study_under_way_is_read_from_its_tests(tmp_path: Path) -> None:
    place = Counterpart("reasoning-grounding", 4, "")
    for arm, score in (("start", 0.2), ("start-plain", 0.3)):
        assert ledger.start_score(place, True, tmp_path) is None
        for test in STUDIES[place.study].tests:
            known = test == "known questions"
            record(tmp_path / place.study / arm / test.replace(" ", "-"), mean_iou=score if known else 0.9)
    assert [ledger.start_score(place, thinking, tmp_path) for thinking in (True, False)] == [0.2, 0.3]


def test_further_tests_are_read_by_their_own_key(tmp_path: Path) -> None:
    scores = {"AP": 0.1, "rare: AP": 0.2, "base: AP": 0.3}
    record(tmp_path / "open-vocabulary" / "shots-4-seed-0", SFT=scores, GRPO=scores)
    record(tmp_path / "open-vocabulary" / "shots-1-seed-0", SFT={"AP": 0.9}, GRPO={"AP": 0.9})
    found = {line[2]: line[4] for line in lines(ledger.ledger_table(tmp_path, 7)) if line[:2] == ["2B", "SFT"]}
    assert found["mAP_n"] == "10.0 (one seed)" and found["mAP_b"] == "30.0 (one seed)"
    assert lines(ledger.ledger_table(tmp_path, 8))[2][4] == "20.0 (one seed)"


@pytest.mark.parametrize("number", PAPER)
def test_every_row_is_shown(number: int, tmp_path: Path) -> None:
    table = PAPER[number]
    printed = lines(ledger.paper_table(number))
    assert [line[:2] for line in printed] == [[row.label, row.method] for row in table.rows]
    for row, line in zip(table.rows, printed):
        assert [float(cell.split()[0]) for cell in line[2:]] == list(row.values.values())
        assert [float(cell.split("(")[1][:-1]) for cell in line[2:] if "(" in cell] == list(row.gains.values())
    found = lines(ledger.ledger_table(tmp_path, number))
    assert [line[:4] for line in found] == [
        [row.label, row.method, name, str(row.values[name])] for row in table.rows for name in table.measures]
    assert {line[-1] for line in found} == {"not run here"} and {len(line) for line in found} == {12}
    assert [line[:2] for line in lines(ledger.gpu_table(number))] == [[row.label, row.method] for row in table.rows]


def test_commands_are_understood_by_the_command_line() -> None:
    commands = [command for row in PAPER_ROWS for command in ledger.gpu_command(row).splitlines()]
    assert len(commands) == 68
    for command in commands:
        words = command.split()
        arguments = _parsed(words[1:])
        assert words[0] == "visual-rft" and arguments.model.startswith("Qwen/Qwen2-VL-")
        assert ("--data FILE" in command) == (read_recipe(arguments.recipe).data.hub == "")


def test_commands_have_the_settings_of_the_paper() -> None:
    found = vars(_parsed(ledger.gpu_command(find_row(7, "2B", "-", "Visual-RFT")).split()[1:]))
    expected = dict(model="Qwen/Qwen2-VL-2B-Instruct", group=8, steps=750, learning_rate=1e-6, warmup=0, beta=0.04,
                    loss="grpo", rewards="released", max_completion_length=256)
    assert {key: found[key] for key in expected} == expected and found["prompts"] * found["accumulate"] == 16
    few = vars(_parsed(ledger.gpu_command(find_row(3, "7B", "4-shot", "Visual-RFT")).split()[1:]))
    assert (few["group"], few["steps"]) == (4, 200)


def test_rows_without_a_command_say_what_is_missing() -> None:
    assert all(bool(ledger.gpu_command(row)) != bool(ledger.missing_data(row)) for row in PAPER_ROWS)
    assert "anime" in ledger.missing_data(find_row(5, "2B", "4-shot", "SFT"))
    assert all(ledger.missing_data(row) == "nothing to train" for row in PAPER_ROWS if row not in TRAINED)


@pytest.fixture
def gpu_runs(tmp_path: Path) -> Path:
    """Invented records of two runs made elsewhere, and a folder that is none."""
    for name, gpu in (("first", "invented card"), ("second", None)):
        record(tmp_path / name, accuracy=0.75, well_formed=1.0, train_seconds=9.0)
        write_json(tmp_path / name / "config.json", dict(recipe="table2-2b-4shot-pets37-grpo", size="t4", rows=111,
                                                         settings=dict(steps=20)))
        write_json(tmp_path / name / "env.json", dict(gpu=gpu))
    record(tmp_path / "first" / "before", accuracy=0.5, well_formed=0.25)
    (tmp_path / "no record").mkdir()
    return tmp_path


def test_records_of_gpu_runs_are_read_as_they_lie(gpu_runs: Path) -> None:
    first, second = ledger.gpu_records(gpu_runs)
    assert (first.name, first.recipe, first.size) == ("first", "table2-2b-4shot-pets37-grpo", "t4")
    assert (first.gpu, first.rows, first.steps) == ("invented card", 111, 20)
    assert first.before == dict(accuracy=0.5, well_formed=0.25) and first.after == dict(accuracy=0.75, well_formed=1.0)
    assert second.gpu == "" and second.before == {}
    (one, two) = lines(ledger.gpu_records_table(gpu_runs))
    assert one[3] == "invented card"
    assert one[6:] == ["accuracy 0.500, well_formed 0.250", "accuracy 0.750, well_formed 1.000"]
    assert two[3] == "no GPU: a rehearsal" and two[6] == "not tested"


def test_a_test_beside_the_runs_is_passed_over(gpu_runs: Path) -> None:
    """As `visual-rft evaluate --annotations … --out` leaves one, in the words of README."""
    (gpu_runs / "first-test").mkdir()
    write_json(gpu_runs / "first-test" / "config.json", dict(task="detection", method="test", questions=9, ask="all"))
    assert [record.name for record in ledger.gpu_records(gpu_runs)] == ["first", "second"]


def test_a_score_without_its_machine_is_no_record(gpu_runs: Path) -> None:
    (gpu_runs / "second" / "env.json").unlink()
    with pytest.raises(FileNotFoundError, match="env.json"):
        ledger.gpu_records(gpu_runs)


def test_no_run_on_a_gpu_is_called_none(tmp_path: Path) -> None:
    assert ledger.gpu_records(tmp_path / "gpu") == []
    assert ledger.gpu_records_table(tmp_path / "gpu") == "No run on a GPU is recorded."
