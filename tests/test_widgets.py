"""The widgets without a browser: what they show, that no text acts, and that ipywidgets 7 and 8 will do."""

import ast
import io
import json
import random
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import ipywidgets
import pytest
import traitlets
from PIL import Image

from visual_rft import widgets
from visual_rft.groups import Group, read_groups
from visual_rft.parsing import PARSERS
from visual_rft.prompts import completion, detection_answer
from visual_rft.rewards import REWARD_SETS

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "data" / "runs"
GRPO, PAPER = RUNS / "groups-grpo", RUNS / "groups-paper"
ATTACKS = [
    "<script>window.hacked=1</script>", "<img src=x onerror='window.hacked=1'>", '"><svg onload=alert(1)>',
    "</td></table><iframe srcdoc='<script>1</script>'>", "&lt;b&gt;", "' onmouseover='alert(1)", "a\x00b",
    "$\\href{javascript:1}{x}$", "\ud83d", "\u202eevil", "<details open ontoggle=alert(1)>",
    "`**[x](javascript:alert(1))**`",
]  # fmt: skip
LONG = f"<think>a</think>{' ' * 30_000}<answer>rose</answer>"
MADE = {"bdi", "br", "b", "i", "p", "h4", "table", "tr", "th", "td", "div", "span", "details", "summary", "img", "wbr"}
TRUTH = completion(detection_answer([[100, 100, 300, 300], [600, 600, 900, 900]]))


class Elements(HTMLParser):
    """Every element of a text, with its attributes, and the text in between."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(text: str) -> bool:
    """Whether a text has only elements of ours, with attributes that do nothing, and can be sent."""
    text.encode("utf-8")
    for tag, attributes in Elements(text).found:
        source = attributes.get("src", "data:image/webp;base64,")
        known = tag in MADE and set(attributes) <= {"style", "scope", "alt", "src"}
        if not known or not source.startswith("data:image/webp;base64,") or "url(" in attributes.get("style", ""):
            return False
    return True


def shown(view: object) -> str:
    """All HTML that a widget holds."""
    parts = [view, *getattr(view, "children", ())]
    own = view.value if isinstance(view, ipywidgets.HTML) else ""
    return own + "".join(map(shown, parts[1:]))


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return read_groups(GRPO)


def store(folder: Path, groups: list[Group]) -> Path:
    """A run folder with these groups, and pictures of the recorded run."""
    shutil.copytree(GRPO / "groups", folder / "groups", dirs_exist_ok=True)
    lines = "".join(json.dumps(asdict(group)) + "\n" for group in groups)
    (folder / "groups.jsonl").write_text(lines, encoding="utf-8")
    return folder


# ------------------------------------------------------------------------------------------ pure functions


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_from_outside_is_shown_and_does_nothing(attack: str) -> None:
    page = Elements(widgets.safe_text(attack))
    assert [tag for tag, _ in page.found] == ["bdi"]
    assert page.text == attack.encode("utf-8", "replace").decode("utf-8")


def test_long_texts_are_cut() -> None:
    assert len(widgets.safe_text("x" * 10**6)) < 2000 and "998500 more" in widgets.safe_text("x" * 10**6)


def test_a_group_is_one_row_a_completion(groups: list[Group]) -> None:
    for group in groups:
        page = Elements(widgets.group_table(group))
        assert [a.get("scope") for tag, a in page.found if tag == "th"].count("row") == len(group.completions)
        for number, advantage in enumerate(group.advantages):
            total = sum(values[number] for values in group.rewards.values())
            one = Elements(widgets.group_table(group, [number])).text
            assert f"{total:.2f}{advantage:+.2f}{group.kl[number]:.3f}" in one
    assert "KL" not in widgets.group_table(replace(groups[0], kl=[]))
    assert "–" in widgets.group_table(replace(groups[0], rewards={"one": [None] * 8}))


def test_the_sign_of_an_advantage_is_a_shape(groups: list[Group]) -> None:
    some = replace(groups[0], advantages=[1.0, -1.0, 0.0] + [0.0] * 5)
    assert [[mark for mark in "▲▼●" if mark in widgets.group_table(some, [number])] for number in range(3)] == [
        ["▲"], ["▼"], ["●"],
    ]  # fmt: skip


def test_thinking_is_missed_only_where_it_was_asked_for(groups: list[Group]) -> None:
    silent = replace(groups[0], completions=["<answer>No Objects</answer>"] * 8)
    assert "no thinking" in widgets.group_table(silent)
    assert "no thinking" not in widgets.group_table(replace(silent, problem="Find it. <answer>"))


def test_summary_says_when_a_group_teaches_nothing(groups: list[Group]) -> None:
    idle = replace(groups[-1], advantages=[0.0] * 8)
    assert "teaches nothing" in widgets.group_summary(idle)
    assert "teaches nothing" not in widgets.group_summary(replace(idle, advantages=[0.0] * 7 + [0.1]))


def test_the_nearest_group_has_the_same_prompt_if_there_is_one(groups: list[Group]) -> None:
    a, b = replace(groups[0], step=0), replace(groups[0], step=40)
    c = replace(groups[0], step=20, problem="another")
    assert widgets.nearest_group([a, b, c], replace(a, step=21)) is b
    assert widgets.nearest_group([a, b, c], replace(a, step=21, problem="a third")) is c
    assert widgets.nearest_group([a, b, c], replace(a, step=21, picture="b" * 16 + ".webp")) is c


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (40, 4000), (900, 30)])
def test_pictures_of_any_shape_are_drawn_small(size: tuple[int, int], tmp_path: Path, groups: list[Group]) -> None:
    (tmp_path / "groups").mkdir()
    Image.new("RGB", size).save(tmp_path / "groups" / groups[0].picture)
    drawn = widgets.group_picture(tmp_path, groups[0])
    assert drawn.width <= 448 and drawn.height <= 3000


def test_a_picture_that_is_none_is_grey(tmp_path: Path, groups: list[Group]) -> None:
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / groups[0].picture).write_bytes(b"RIFF no picture")
    assert widgets.group_picture(tmp_path, groups[0]).getpixel((440, 2)) == (128, 128, 128)


def test_formulas_have_the_values_that_are_paid() -> None:
    draw, edge = random.Random(1), range(0, 1001, 100)
    for _ in range(400):
        corners = [sorted(draw.sample(edge, 2)) + sorted(draw.sample(edge, 2)) for _ in range(draw.randint(0, 4))]
        boxes = [[a, c, b, d] if draw.random() < 0.9 else [b, c, a, d] for a, b, c, d in corners]
        boxes += boxes[: draw.randint(0, 1)]  # one of them twice
        said = completion(detection_answer(boxes, [draw.choice([0, 0.5, 1]) for _ in boxes]), "so")
        solution = draw.choice([TRUTH, completion("No Objects"), completion(detection_answer([[0, 0, 500, 500]]))])
        paid = {k: v for each in widgets.reward_scores("detection", said, solution).values() for k, v in each.items()}
        for name, (text, value) in widgets.detection_formulas(said, solution).items():
            assert value == pytest.approx(paid[name]), (said, solution, text)


@pytest.mark.parametrize("task", PARSERS)
@pytest.mark.parametrize("text", [*ATTACKS, "", "<answer>" * 9, "<think>a</think><answer>[[[[</answer>", LONG])
def test_scores_are_those_of_the_rewards(task: str, text: str) -> None:
    solution = widgets.BEGINNINGS[task][0]
    scores = widgets.reward_scores(task, text, solution)
    for name, rewards in REWARD_SETS.items():
        for reward in rewards[task]:
            assert scores[name][reward.__name__] == reward([text[:20_001]], solution=[solution], problem=["<think>"])[0]
    assert harmless(widgets.reward_table(scores) + widgets.parse_table(task, text))


def test_format_reward_is_told_whether_thinking_was_asked_for() -> None:
    said = "<answer>rose</answer>"
    paid = [widgets.reward_scores("classification", said, said, asked)["robust"] for asked in (True, False)]
    assert [each["classification_format"] for each in paid] == [0, 1]


def test_match_table_marks_both_rules() -> None:
    said = widgets.boxes_text([[100, 100, 300, 300, 0.9], [600, 600, 900, 740, 0.8], [0, 0, 50, 50, 1]])
    cells = [text for text in widgets.match_table(said, TRUTH).split("<") if "IoU" in text]
    marks = ["".join(mark for mark in "●○" if mark in cell) for cell in cells]
    assert marks == ["●○", "", "", "●", "", ""]  # the second box has an IoU of 0.47: a match for the robust rule only


def test_boxes_come_back_from_the_canvas() -> None:
    draw = random.Random(2)
    for size in ((448, 448), (448, 31), (90, 900)):
        boxes = [[*sorted(draw.sample(range(1001), 2)), *sorted(draw.sample(range(1001), 2)), 0.3] for _ in range(50)]
        boxes = [[a, c, b, d, e] for a, b, c, d, e in boxes]
        assert widgets.from_canvas(widgets.to_canvas(boxes, size), size) == boxes


# ------------------------------------------------------------------------------- controls, without a browser


def test_inspector_steps_through_two_runs(groups: list[Group]) -> None:
    inspector = widgets.GroupInspector(GRPO, PAPER)
    for step in sorted({group.step for group in groups}):
        inspector.step.value = step
        here = [group for group in groups if group.step == step]
        assert [group for _, group in inspector.prompt.options] == here
        for group in here:
            inspector.prompt.value = group
            assert f"After {step} steps" in inspector.panels[0].value
            assert widgets.group_table(group) in inspector.panels[0].value
            assert widgets.group_table(widgets.nearest_group(read_groups(PAPER), group)) in inspector.panels[1].value
    assert "groups-paper" in inspector.panels[1].value


def test_inspector_stays_with_a_prompt(groups: list[Group]) -> None:
    asked = [(group.problem, group.picture) for group in groups]
    again = next(group for group in groups if asked.count((group.problem, group.picture)) > 2)
    steps = [group.step for group in groups if (group.problem, group.picture) == (again.problem, again.picture)]
    inspector = widgets.GroupInspector(GRPO)
    inspector.step.value = steps[0]
    inspector.prompt.value = again
    for step in steps[1:]:
        inspector.step.value = step
        assert (inspector.prompt.value.problem, inspector.prompt.value.picture) == (again.problem, again.picture)


def test_choosing_a_completion_draws_only_its_boxes(groups: list[Group]) -> None:
    inspector = widgets.GroupInspector(GRPO)
    inspector.step.value = groups[-1].step
    inspector.completion.value = (3,)
    group = inspector.prompt.value
    assert widgets.group_table(group, [3]) in inspector.panels[0].value
    assert list(inspector.snapshot().picture.getdata()) == list(widgets.group_picture(GRPO, group, [3]).getdata())
    assert widgets.group_picture(GRPO, group, [3]).tobytes() != widgets.group_picture(GRPO, group).tobytes()


def test_messages_of_a_browser_move_the_controls(groups: list[Group]) -> None:
    """As a page sends them: by index, not by value."""
    inspector = widgets.GroupInspector(GRPO)
    inspector.step.set_state({"index": 2})
    inspector.prompt.set_state({"index": 1})
    inspector.completion.set_state({"index": 5})
    wanted = [group for group in groups if group.step == inspector.step.options[2]][1]
    assert widgets.group_table(wanted, [4]) in inspector.panels[0].value
    playground = widgets.BoxPlayground(Image.new("RGB", (60, 60)), TRUTH)
    playground.editor.sliders[2].set_state({"value": 333})
    assert playground.editor.boxes == [[250, 250, 333, 750, 0.9]]
    playground.editor.add._handle_custom_msg({"event": "click"}, [])
    assert len(playground.editor.boxes) == 2 and playground.editor.chosen.value == 1


def test_runs_with_groups_of_other_sizes(tmp_path: Path, groups: list[Group]) -> None:
    few = [
        replace(group, completions=group.completions[:2], advantages=group.advantages[:2], kl=(),
                rewards={name: values[:2] for name, values in group.rewards.items()})
        for group in groups
    ]  # fmt: skip
    inspector = widgets.GroupInspector(store(tmp_path, few), GRPO)
    inspector.completion.value = (7,)
    assert [panel.value.count('scope="row"') for panel in inspector.panels] == [2, 1]


def test_a_lone_group_will_do(tmp_path: Path, groups: list[Group]) -> None:
    assert "After 0 steps" in widgets.GroupInspector(store(tmp_path, groups[:1])).panels[0].value


@pytest.mark.parametrize(
    "change", [dict(step="0"), dict(advantages=["x"] * 8), dict(picture="../a.webp"), dict(kl=[0])]
)
def test_a_broken_record_is_refused_by_its_line(change: dict, tmp_path: Path, groups: list[Group]) -> None:
    folder = store(tmp_path, groups[:1])
    with (folder / "groups.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(groups[1]) | change) + "\n")
    with pytest.raises(ValueError, match="line 2"):
        widgets.GroupInspector(folder)
    (folder / "groups.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="no groups yet"):
        widgets.GroupInspector(GRPO, folder)


def test_a_broken_box_is_drawn_by_no_one(tmp_path: Path, groups: list[Group]) -> None:
    boxes = [0, 0, "1e999", 5], ["9e5", "9e5", "9.1e5", "9.1e5"]
    texts = [f"<answer>[{{'Position': [{', '.join(map(str, box))}]}}]</answer>" for box in boxes]
    odd = replace(groups[0], completions=texts * 4, frame=(1, 10**9))
    assert "After 0 steps" in widgets.GroupInspector(store(tmp_path, [odd])).panels[0].value


def test_playground_follows_its_controls() -> None:
    playground = widgets.BoxPlayground(Image.new("RGB", (60, 40)), TRUTH, [[100, 100, 300, 300, 0.9]])
    assert "IoU 1.00" in playground.said.value
    playground.editor.add.click()
    assert playground.editor.chosen.value == 1 and playground.editor.sliders[0].value == 400
    for slider, value in zip(playground.editor.sliders, (600, 600, 900, 900, 0.85)):
        slider.value = value
    assert playground.editor.boxes == [[100, 100, 300, 300, 0.9], [600, 600, 900, 900, 0.85]]
    assert playground.said.value.count("● ○ IoU 1.00") == 2
    playground.editor.chosen.value = 0
    assert [slider.value for slider in playground.editor.sliders] == [100, 100, 300, 300, 0.9]
    playground.editor.remove.click()
    playground.editor.remove.click()
    assert playground.editor.boxes == [] and "No Objects" in playground.said.value
    playground.editor.add.click()
    assert playground.editor.chosen.value == 0 and not playground.editor.sliders[0].disabled


def test_a_move_is_shown_once() -> None:
    calls = []
    editor = widgets._BoxEditor([[0, 0, 10, 10, 0.5], [20, 30, 40, 50, 0.9]], calls.append)
    editor.chosen.value = 1
    editor.sliders[0].value = 25
    assert calls == [[[0, 0, 10, 10, 0.5], [20, 30, 40, 50, 0.9]]] * 2 + [[[0, 0, 10, 10, 0.5], [25, 30, 40, 50, 0.9]]]


def test_a_swapped_box_is_rejected_and_shown_so() -> None:
    playground = widgets.BoxPlayground(Image.new("RGB", (60, 40)), TRUTH)
    playground.editor.sliders[2].value = 10
    assert "0 / " not in playground.said.value and "No pair" in playground.said.value


class Canvas(ipywidgets.HTML):
    """Stands in for the widget of jupyter_bbox_widget."""

    def __init__(self) -> None:
        super().__init__()
        self.add_traits(bboxes=traitlets.List([]), selected_index=traitlets.Int(-1))


def test_dragging_moves_the_sliders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "_drag_canvas", lambda picture: Canvas())
    boxes = [[0, 0, 100, 100, 0.9], [500, 500, 600, 600, 0.4]]
    playground = widgets.BoxPlayground(Image.new("RGB", (100, 100)), TRUTH, boxes)
    drag, editor = playground.drag, playground.editor
    assert [box["label"] for box in drag.bboxes] == ["1: 0.90", "2: 0.40"]
    moved = [drag.bboxes[0], drag.bboxes[1] | dict(x=0, width=448)]
    drag.selected_index = 1
    drag.bboxes = moved
    assert editor.boxes == [[0, 0, 100, 100, 0.9], [0, 500, 1000, 600, 0.4]]
    assert editor.chosen.value == 1 and [s.value for s in editor.sliders] == editor.boxes[1]
    drag.bboxes = [*moved, dict(x=44.8, y=0, width=44.8, height=448, label="box")]  # drawn anew
    assert editor.boxes[2] == [100, 0, 200, 1000, 0.5]
    editor.sliders[2].value = 50  # swapped corners: the canvas cannot show them, and does not mend them
    assert editor.boxes[1] == [0, 500, 50, 600, 0.4]
    editor.sliders[0].value = 70
    assert editor.boxes[1] == [70, 500, 50, 600, 0.4]
    editor.sliders[0].value = 20
    assert widgets.from_canvas(drag.bboxes, playground.plain.size) == editor.boxes


def test_without_the_extra_there_are_sliders_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jupyter_bbox_widget", None)
    playground = widgets.BoxPlayground(Image.new("RGB", (60, 40)), TRUTH)
    assert playground.drag is None and "data:image/webp" in playground.canvas.value


def test_tester_follows_its_fields() -> None:
    tester = widgets.CompletionTester()
    for task, (solution, said) in widgets.BEGINNINGS.items():
        tester.task.value = task
        assert (tester.solution.value, tester.completion.value) == (solution, said)
        assert widgets.parse_table(task, said) in tester.said.value
        assert widgets.reward_table(widgets.reward_scores(task, said, solution)) in tester.said.value
    tester.completion.value = "<answer>(1,2),(3,4)</answer>"
    assert "no thinking" in tester.said.value
    tester.thinking.value = False
    assert "no thinking" not in tester.said.value
    tester.solution.value = "<script>"
    assert "not a grounding solution" in tester.said.value and harmless(tester.said.value)


def test_viewer_pages_and_filters() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    rows = [
        dict(image={"bytes": buffer.getvalue()}, problem=f"Find every {name} in the image. <answer>", category=name,
             solution=completion(detection_answer([box])))
        for name, box in [("cat", [1, 2, 300, 400])] * 8 + [("dog", [1, 2, 3000, 4000])] * 2
    ]  # fmt: skip
    viewer = widgets.CurriculumViewer(rows)
    assert viewer.page.max == 2 and "10 of 10 rows" in viewer.said.value and viewer.said.value.count("<img") == 6
    back, on = viewer.view.children[1].children[:2]
    on.click()
    on.click()
    assert viewer.page.value == 2 and viewer.said.value.count("<img") == 4
    viewer.category.value = "dog"
    assert viewer.page.value == 1 and viewer.numbers == [9, 10] and "pixels where thousandths" in viewer.said.value
    viewer.category.value, viewer.flagged.value = "cat", True
    assert viewer.numbers == [2, 3, 4, 5, 6, 7, 8] and "repeats row 1" in viewer.said.value
    back.click()
    assert viewer.page.value == 1


def test_viewer_reads_data_sets_without_decoding() -> None:
    from visual_rft.miniature import few_shot_rows

    rows = few_shot_rows(1, 0)
    viewer = widgets.CurriculumViewer(rows)
    assert len(viewer.numbers) == len(rows) == 8 and viewer.snapshot().picture.width > 120
    assert isinstance(viewer.rows[0]["image"], dict)


@pytest.mark.parametrize("rows", [[], [7, None, "x", [], {}], [{"image": 3, "problem": 3, "solution": [], "task": {}}]])
def test_viewer_shows_rows_of_any_form(rows: list) -> None:
    viewer = widgets.CurriculumViewer(rows)
    assert harmless(viewer.said.value) and len(viewer.numbers) == len(rows)
    viewer.snapshot()
    viewer.flagged.value = True
    viewer.snapshot()


# -------------------------------------------------------------------------------------------- hostile text


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_tool_lets_text_act(attack: str, tmp_path: Path, groups: list[Group]) -> None:
    folder = tmp_path / re.sub(r"[/\x00\ud83d]", "_", attack)
    folder.mkdir()
    texts = [attack, f"<answer>{attack}</answer>"] * 4
    hostile = replace(groups[0], problem=attack, solution=attack, completions=texts, rewards={attack: [1.0] * 8})
    inspector = widgets.GroupInspector(store(folder, [hostile]), folder)
    tester = widgets.CompletionTester()
    tester.completion.value, tester.solution.value = attack, attack
    viewer = widgets.CurriculumViewer([dict(image={"path": attack}, problem=attack, solution=attack, category=attack)])
    for tool in (inspector, tester, viewer):
        assert harmless(shown(tool.view)) and harmless(tool.snapshot().html)
    assert harmless(widgets.formula_table(attack, TRUTH) + widgets.match_table(attack, TRUTH))
    assert harmless(widgets.picture_html(Image.new("RGB", (9, 9)), attack))


def test_descriptions_are_ours(groups: list[Group]) -> None:
    """Version 7 shows them as HTML."""
    tools = [widgets.GroupInspector(GRPO), widgets.CompletionTester(), widgets.CurriculumViewer([dict(category="<b>")])]
    described = [control for tool in tools for control in vars(tool).values() if hasattr(control, "description")]
    assert len(described) >= 9 and not any("<" in control.description for control in described)


def test_the_check_for_harm_can_fail() -> None:
    assert not any(map(harmless, ("<script>", "<b onclick=1>", "<img src=http://x>", "<b style='background:url(x)'>")))
    assert harmless("<b>&lt;script&gt;</b>")


# ----------------------------------------------------------------------------- ipywidgets 7.7.1 and 8 alike


SHARED = {  # class of ipywidgets -> arguments that versions 7.7.1 and 8 share
    "BoundedIntText": {"value", "min", "max", "description"}, "Box": {"layout"}, "Button": {"description"},
    "Checkbox": {"value", "description"}, "Dropdown": {"options", "description"},
    "FloatSlider": {"min", "max", "step", "description"}, "HBox": {"layout"}, "HTML": {"layout"},
    "IntSlider": {"min", "max", "description"},
    "Layout": {"flex", "min_width", "overflow", "display", "flex_flow", "width"},
    "SelectionSlider": {"options", "description"}, "Textarea": {"description", "rows", "layout", "continuous_update"},
    "ToggleButtons": {"options", "description", "style"}, "VBox": {"layout"}, "Widget": set(),
}  # fmt: skip


def test_only_what_both_versions_share_is_used() -> None:
    """The names were tried with both versions: this module's tests pass with ipywidgets 7.7.1 and IPython 7.34, too."""
    tree = ast.parse((ROOT / "visual_rft" / "widgets.py").read_text(encoding="utf-8"))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert {node.attr for node in names if ast.unparse(node.value) == "ipywidgets"} <= set(SHARED)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ipywidgets."):
            named = {keyword.arg for keyword in node.keywords if keyword.arg}
            assert named <= SHARED[node.func.attr], ast.unparse(node)


def test_colours_suit_light_and_dark_pages() -> None:
    """No background is set, and no colour of a text but that of the triangles."""
    source = (ROOT / "visual_rft" / "widgets.py").read_text(encoding="utf-8")
    assert "background" not in source
    assert source.count("color: {advantage_colour") == len(re.findall(r"[^-]color:", source)) == 1


def test_live_widgets_are_saved_without_output() -> None:
    """Their stored form differs from run to run; a cell with a snapshot stands before each."""
    cells = json.loads((ROOT / "nbs" / "15d_widgets.ipynb").read_text(encoding="utf-8"))["cells"]
    live = [cell for cell in cells if "".join(cell["source"]).startswith("#| eval: false")]
    assert len(live) == 4 and not any(cell["outputs"] for cell in live)
    assert "application/vnd.jupyter.widget-view" not in json.dumps(cells)
