"""Rows from public sets: boxes return, draws repeat, negatives are negative, what is odd is named."""

import io
import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from visual_rft import data, prompts, sources
from visual_rft.parsing import parse_detection, parse_grounding

WIDTH, HEIGHT, PICTURES = 640, 427, 12


def boxes(solution: str) -> list[list[float]]:
    return [list(found.box) for found in parse_detection(solution, thinking=False).boxes]


def write(path: Path, content: object, encoding: str = "utf-8") -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return path


@pytest.fixture
def content(tmp_path: Path) -> dict:
    """Twelve JPEG pictures; picture i has a cat where i is even and hot dogs (two) where i is a multiple of three."""
    images, annotations = [], []
    for i in range(PICTURES):
        Image.new("RGB", (WIDTH, HEIGHT), (20 * i, 99, 0)).save(tmp_path / f"{i}.jpg")
        images.append(dict(id=i, width=WIDTH, height=HEIGHT, file_name=f"{i}.jpg"))
        cats, dogs = [(7, (10.37 + i, 20.11))], [(3, (50, 200)), (3, (5, 210))]
        for category, corner in cats * (i % 2 == 0) + dogs * (i % 3 == 0):
            box = [*corner, 33.3, 101.7]
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=category, bbox=box, iscrowd=0))
    return dict(images=images, annotations=annotations, categories=[dict(id=7, name="cat"), dict(id=3, name="hot_dog")])


def read(content: dict, tmp_path: Path) -> sources.Annotations:
    return sources.read_annotations(write(tmp_path / "boxes.json", content))


# ---------------------------------------------------------------------------------------------------- COCO


def test_boxes_come_back_within_one_thousandth(content: dict, tmp_path: Path) -> None:
    rows = sources.coco_rows(read(content, tmp_path), tmp_path)
    assert len(rows) == 6 + 4
    files = {(tmp_path / f"{i}.jpg").read_bytes(): i for i in range(PICTURES)}
    for row in data.encoded(rows):
        number = files[row["image"]["bytes"]]  # the bytes of the file, not encoded anew
        category = {"cat": 7, "hot dog": 3}[row["category"]]
        drawn = [a["bbox"] for a in content["annotations"] if (a["image_id"], a["category_id"]) == (number, category)]
        corners = sorted((x, y, x + w, y + h) for x, y, w, h in drawn)
        exact = [[1000 * v / side for v, side in zip(box, (WIDTH, HEIGHT) * 2)] for box in corners]
        found = boxes(row["solution"])
        assert len(found) == len(exact) and found == sorted(found)
        assert all(abs(a - b) <= 1 for x, y in zip(found, exact) for a, b in zip(x, y))
        assert row["problem"] == prompts.detection_prompt(row["category"]) and row["task"] == "detection"


def test_few_shots_repeat_and_are_nested_and_independent(content: dict, tmp_path: Path) -> None:
    annotations = read(content, tmp_path)

    def drawn(**options: object) -> list[bytes]:
        rows = sources.coco_rows(annotations, tmp_path, **options)
        return [row["image"]["bytes"] for row in data.encoded(rows) if row["category"] == "cat"]

    assert drawn(shots=3) == drawn(shots=3) == drawn(shots=3, categories=["cat"])
    assert set(drawn(shots=2)) < set(drawn(shots=3)) and len(drawn(shots=99)) == 6
    assert len({tuple(drawn(shots=3, seed=seed)) for seed in range(8)}) > 2
    plain = sources.coco_rows(annotations, tmp_path, ["HOT_dog"], shots=1, thinking=False)
    assert plain["category"] == ["hot dog"] and "<think>" not in plain["problem"][0]
    with pytest.raises(ValueError, match="at least 1"):
        drawn(shots=0)


def test_negatives_lack_what_is_asked_for(content: dict, tmp_path: Path) -> None:
    content["annotations"].append(dict(id=99, image_id=1, category_id=7, bbox=[0, 0, 640, 99], iscrowd=1))
    annotations = read(content, tmp_path)
    files = {(tmp_path / f"{i}.jpg").read_bytes(): i for i in range(PICTURES)}
    for seed in range(6):
        rows = data.encoded(sources.coco_rows(annotations, tmp_path, shots=3, negatives=0.4, seed=seed)).to_list()
        negative = [(row["category"], files[row["image"]["bytes"]]) for row in rows if not boxes(row["solution"])]
        assert len(rows) == 10 and len(set(negative)) == 4 and {name for name, _ in negative} == {"cat", "hot dog"}
        for name, number in negative:
            assert (number % 2 == 1 and number != 1) if name == "cat" else number % 3
        assert all(row["solution"] == "<answer>No Objects</answer>" for row in rows[6:])
    with pytest.raises(ValueError, match="negatives wanted, but only 13 pairs"):
        sources.coco_rows(annotations, tmp_path, negatives=0.9)
    with pytest.raises(ValueError, match="below 1"):
        sources.coco_rows(annotations, tmp_path, negatives=1)


def test_crowds_and_boxes_without_area_are_no_boxes_but_presence(content: dict, tmp_path: Path) -> None:
    odd = [[0, 0, 0, 50], [700, 0, 9, 9], [50, 50, -9, 9], [-20, 5, 10, 10], [10, 10, 0.1, 50]]
    content["annotations"] += [dict(id=70 + i, image_id=0, category_id=7, bbox=box) for i, box in enumerate(odd)]
    content["annotations"] += [dict(id=99, image_id=2, category_id=7, bbox=[0, 0, 99, 99], iscrowd=1)]
    with pytest.warns(UserWarning, match="boxes.json: 5 boxes without area .* annotations 70, 71, 72, 73, 74"):
        annotations = read(content, tmp_path)
    assert annotations.faulty == (70, 71, 72, 73, 74)
    complete, all_rows = (sources.coco_rows(annotations, tmp_path, ["cat"], complete=c) for c in (True, False))
    assert len(complete) == 4 and len(all_rows) == 6 and all(len(boxes(s)) == 1 for s in all_rows["solution"])
    assert not any(sources._is_absent(annotations, 7, image) for image in (0, 2))


def test_boxes_are_cut_at_the_edge(content: dict, tmp_path: Path) -> None:
    content["annotations"] = [dict(id=1, image_id=0, category_id=7, bbox=[-10, 400, 74, 100])]
    assert boxes(sources.coco_rows(read(content, tmp_path), tmp_path, ["cat"])["solution"][0]) == [[0, 937, 100, 1000]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("images"), ["list under the key 'images'"]),
        (lambda c: c["annotations"][1].pop("bbox"), ["annotations, entry 2", "missing key 'bbox'"]),
        (lambda c: c["annotations"][0].update(image_id=77), ["annotation 1", "image 77"]),
        (lambda c: c["annotations"][0].update(category_id=77), ["annotation 1", "category 77"]),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, "3", 4]), ["annotation 1", "[x, y, width, height]"]),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), ["annotation 1"]),
        (lambda c: c["annotations"][0].update(id=2), ["two entries share the id 2"]),
        (lambda c: c["annotations"][0].update(image_id=[1]), ["'image_id' is no id"]),
        (lambda c: c["categories"].append(dict(id=8, name="hot dog")), ["two categories are called 'hot dog'"]),
        (lambda c: c["images"][3].update(width=0), ["image 3", "above 0"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(content: dict, tmp_path: Path, change, words: list[str]) -> None:
    change(content)
    with pytest.raises(ValueError) as caught:
        read(content, tmp_path)
    assert all(word in str(caught.value) for word in ["boxes.json", *words]) and "\n" not in str(caught.value)


def test_pictures_that_do_not_fit_are_named(content: dict, tmp_path: Path) -> None:
    annotations = read(content, tmp_path)
    with pytest.raises(ValueError, match="no category 'hot dgo'.*hot dog"):
        sources.coco_rows(annotations, tmp_path, ["hot dgo"])
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "0.jpg")
    with pytest.raises(ValueError, match="0.jpg: the picture is 427 x 640 pixels"):
        sources.coco_rows(annotations, tmp_path)
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn: shown, it has the stated size
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "0.jpg", exif=exif)
    assert sources.coco_rows(annotations, tmp_path)[0]["image"].size == (WIDTH, HEIGHT)
    (tmp_path / "0.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="0.jpg: picture cannot be read"):
        sources.coco_rows(annotations, tmp_path)
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="image 0: picture not found"):
        sources.coco_rows(annotations, tmp_path)


# ---------------------------------------------------------------------------------------------------- LVIS


def federated(content: dict) -> dict:
    """As LVIS would write it: absence of a cat is known of 1 and 3, of a hot dog of 2; cats of 4 are unfinished."""
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        absent = {1: [7], 3: [7], 2: [3]}.get(image["id"], [])
        image |= dict(neg_category_ids=absent, not_exhaustive_category_ids=[7] if image["id"] == 4 else [])
    return content


@pytest.mark.parametrize("below", [True, False])
def test_lvis_negatives_are_verified(content: dict, tmp_path: Path, below: bool) -> None:
    annotations = read(federated(content), tmp_path)
    assert annotations.federated
    if below:
        (tmp_path / "val2017").mkdir()
        for file in tmp_path.glob("*.jpg"):
            file.rename(tmp_path / "val2017" / file.name)
    files = {file.read_bytes(): int(file.stem) for file in tmp_path.rglob("*.jpg")}
    rows = data.encoded(sources.coco_rows(annotations, tmp_path, shots=3, negatives=1 / 3)).to_list()
    negative = {(row["category"], files[row["image"]["bytes"]]) for row in rows if not boxes(row["solution"])}
    assert negative == {("cat", 1), ("cat", 3), ("hot dog", 2)}
    assert len(sources.coco_rows(annotations, tmp_path, ["cat"])) == 5
    assert len(sources.coco_rows(annotations, tmp_path, ["cat"], complete=False)) == 6
    with pytest.raises(ValueError, match="4 negatives wanted, but only 3"):
        sources.coco_rows(annotations, tmp_path, shots=2, negatives=0.5)


def test_picture_without_name_or_address(content: dict, tmp_path: Path) -> None:
    for image in content["images"]:
        image.pop("file_name")
    with pytest.raises(ValueError, match="image 0: neither file_name nor coco_url"):
        sources.coco_rows(read(content, tmp_path), tmp_path)


# -------------------------------------------------------------------------------------------------- ReasonSeg, classes


def reason(folder: Path, name: str, shapes: list, texts: list, encoding: str = "utf-8", **more: object) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (200, 100), "red").save(folder / f"{name}.jpg")
    write(folder / f"{name}.json", dict(text=texts, shapes=shapes, **more), encoding)


def shape(label: str, *points: tuple[float, float]) -> dict:
    return dict(label=label, points=[list(point) for point in points], shape_type="polygon")


def test_reasonseg_boxes_hold_all_target_polygons(tmp_path: Path) -> None:
    shapes = [shape("ignore", (0, 0), (9, 9)), shape("target", (20, 10), (60, 10), (60, 50)),
              shape("target", (100, 30), (160, 90.2))]  # fmt: skip
    reason(tmp_path / "r", "a", shapes, ["what is it?", " the café "], "cp1252", is_sentence=False)
    reason(tmp_path / "r", "b", shapes[1:2], ["One sentence."], is_sentence=True)
    rows = sources.reasonseg_rows(tmp_path / "r", thinking=False)
    found = [parse_grounding(solution, thinking=False).boxes[0].box for solution in rows["solution"]]
    assert found == [(100, 100, 800, 902)] * 2 + [(100, 100, 300, 500)]
    assert rows["category"] == ["phrase", "phrase", "sentence"] and set(rows["task"]) == {"grounding"}
    assert rows["problem"][1] == prompts.grounding_prompt("the café.", thinking=False)
    assert data.encoded(rows)[0]["image"]["bytes"] == (tmp_path / "r" / "a.jpg").read_bytes()
    first = sources.reasonseg_rows(tmp_path / "r", first_polygon=True)["solution"]
    assert first == ["<answer>(100,100),(300,500)</answer>"] * 3


def test_reasonseg_slips_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    reason(folder, "a", [shape("target", (20, 10), (60, 50))], ["it"])
    reason(folder, "b", [shape("ignore", (20, 10), (60, 50))], ["it"])
    with pytest.warns(UserWarning, match="1 files have no target in their picture: b.json"):
        assert len(sources.reasonseg_rows(folder)) == 1
    for content, words in [
        (dict(text="it", shapes=[]), "b.json: expected a list of instructions"),
        (dict(text=["it"], shapes={}), "b.json: expected a list of polygons"),
        (dict(text=["it"], shapes=[dict(label="target", points=[[1]])]), "b.json: a target polygon"),
        ([], "b.json: expected a JSON object"),
    ]:
        write(folder / "b.json", content)
        with pytest.raises(ValueError, match=words):
            sources.reasonseg_rows(folder)
    (folder / "b.jpg").unlink()
    write(folder / "b.json", dict(text=["it"], shapes=[]))
    with pytest.raises(FileNotFoundError, match="b.json: no picture"):
        sources.reasonseg_rows(folder)
    with pytest.raises(FileNotFoundError, match="no .json file"):
        sources.reasonseg_rows(tmp_path)


def test_class_folders(tmp_path: Path) -> None:
    for name, count in (("american_bulldog", 5), ("pug", 2), (".cache", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("L", (30, 20 + i)).save(tmp_path / name / f"{i}.JPG", format="JPEG")
        (tmp_path / name / "notes.txt").write_text("none")
    rows = sources.class_folder_rows(tmp_path, shots=3, kind="pet")
    assert rows["category"] == ["american bulldog"] * 3 + ["pug"] * 2 and rows["task"] == ["classification"] * 5
    assert rows["solution"][0] == "<answer>american bulldog</answer>" and "pug" not in rows["problem"][-1]
    assert rows["problem"][0] == prompts.classification_prompt("pet")
    again, other = (sources.class_folder_rows(tmp_path, shots=3, seed=seed, kind="pet") for seed in (0, 4))
    heights = [[row["image"].height for row in table][:3] for table in (rows, again, other)]
    assert heights[0] == heights[1] != heights[2]
    (tmp_path / "void").mkdir()
    with pytest.raises(FileNotFoundError, match="void: no pictures"):
        sources.class_folder_rows(tmp_path)


# ---------------------------------------------------------------------------------------------------- published sets


def test_a_folder_laid_out_like_a_hub_data_set_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = io.BytesIO()
    Image.new("RGBA", (40, 30), (9, 9, 9, 255)).save(stored, format="PNG")
    asked = "Detect all objects belonging to the category '{}' in the image, and provide the bounding boxes (between"
    solution = "<answer>[{'Position': [227, 51, 729, 880], 'Confidence': 1}]</answer>"
    table = [dict(image={"bytes": stored.getvalue(), "path": "x.png"}, problem=asked.format(name), solution=solution)
             for name in ("stop sign", "cat")]  # fmt: skip
    table.append(dict(table[0], problem="Please identify the species.", solution="<answer>american_bulldog</answer>"))
    features = datasets.Features({name: data.FEATURES[name] for name in data.REQUIRED})
    folder = tmp_path / "owner" / "ViRFT_like"
    datasets.Dataset.from_list(table, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    for name in (folder, "owner/ViRFT_like"):  # what is on disk wins over the hub
        rows = data.load_rows(name)
        assert rows["task"] == ["detection", "detection", "classification"]
        assert rows["category"] == ["stop sign", "cat", "american_bulldog"] and rows.features == data.FEATURES
        assert rows.cache_files  # the table stays on disk
        assert data.encoded(rows)[0]["image"]["bytes"] == stored.getvalue() and rows[0]["image"].size == (40, 30)


def test_names_on_the_hub_are_fetched_and_failures_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        asked.append((name, split))
        if "gone" in name:
            raise ConnectionError("Couldn't reach it\nat all")
        if "odd" in name:
            raise ValueError('Unknown split "train".\nShould be one of [test]')
        image = Image.new("RGB", (40, 30))
        return data.dataset([data.grounding_row(image, "it.", "", [0, 0, 9, 9])]).select_columns(list(data.REQUIRED))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert data.load_rows("laolao77/ViRFT_COCO")["task"] == ["grounding"]
    assert asked == [("laolao77/ViRFT_COCO", "train")]
    with pytest.raises(FileNotFoundError, match="owner/gone: neither found .*: Couldn't reach it at all"):
        data.load_rows("owner/gone")
    with pytest.raises(ValueError, match='owner/odd: cannot be read as a data set: Unknown split "train". Should be'):
        data.load_rows("owner/odd")
    for name in (Path("owner/name"), "owner/name.jsonl", "./owner/name", "a/b/c", "name"):
        with pytest.raises(FileNotFoundError, match="data set not found"):
            data.load_rows(name)
    assert len(asked) == 3


def test_a_stored_table_is_checked_row_by_row(tmp_path: Path) -> None:
    image = data.encode_image(Image.new("RGB", (40, 30)))
    row = dict(image=image, problem="p", solution="<answer>a</answer>", task="classification", category="a")
    half = dict(row, image={"bytes": image["bytes"][:60], "path": None})
    table = datasets.Dataset.from_list([row, half], features=data.FEATURES)
    table.to_parquet(tmp_path / "data" / "train-0-of-1.parquet")
    with pytest.raises(ValueError, match="row 2: image cannot be read"):
        data.load_rows(tmp_path)


@pytest.mark.parametrize("name", ["cat", "hot dog", "bow (weapon)", "it's"])
def test_categories_are_read_from_questions(name: str) -> None:
    for problem in (prompts.detection_prompt(name), prompts.detection_prompt(name, thinking=False),
                    f"Detect all objects belonging to the category '{name}' in the image, and provide"):  # fmt: skip
        assert data.category_of("detection", problem, "") == name
    assert data.category_of("grounding", prompts.grounding_prompt(name), "") == ""


def test_no_solution_stands_in_its_question(content: dict, tmp_path: Path) -> None:
    reason(tmp_path / "r", "a", [shape("target", (20, 10), (60, 50))], ["What would you eat?"])
    rows = sources.coco_rows(read(content, tmp_path), tmp_path, negatives=0.2)
    for row in [*rows, *sources.reasonseg_rows(tmp_path / "r")]:
        answer = row["solution"].removeprefix("<answer>").removesuffix("</answer>")
        assert answer == prompts.NO_OBJECTS or answer not in row["problem"]


def test_published_sets_are_described() -> None:
    assert len({source.name for source in sources.PUBLISHED}) == 8
    assert {source.rows for source in sources.PUBLISHED} == {None, 32, 65, 408, 400, 784, 148}
    assert len(set(sources.COCO_NOVEL)) == 15 and len(set(sources.COCO_FEW_SHOT)) == 8
    assert len(set(sources.LVIS_RARE_13)) == 13 and len(set(sources.LVIS_FEW_SHOT_6)) == 6
