"""Write data/assets/recipes: a file for every training behind a row of the paper's tables (notebook 17a).

    python tools/make_recipes.py
"""

from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[1] / "data" / "assets" / "recipes"
FEW_SHOT = ["bus", "train", "fire hydrant", "stop sign", "cat", "dog", "bed", "toilet"]
RARE = ["horse buggy", "die", "kitchen table", "omelet", "papaya", "stepladder"]
RARER = ["casserole", "die", "egg roll", "futon", "garbage", "handsaw", "hippopotamus", "kitchen table", "mallet",
         "omelet", "shot glass", "stepladder", "sugar bowl"]  # fmt: skip
NOVEL = ["mouse", "fork", "hot dog", "cat", "airplane", "suitcase", "parking meter", "sandwich", "train", "hair drier",
         "toilet", "toaster", "snowboard", "frisbee", "bear"]  # fmt: skip
BASE = [
    "person", "bicycle", "car", "motorcycle", "bus", "truck", "boat", "traffic light", "fire hydrant", "stop sign",
    "bench", "bird", "dog", "horse", "sheep", "cow", "elephant", "zebra", "giraffe", "backpack", "umbrella", "handbag",
    "tie", "skis", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket",
    "bottle", "wine glass", "cup", "knife", "spoon", "bowl", "banana", "apple", "orange", "broccoli", "carrot", "pizza",
    "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "tv", "laptop", "remote", "keyboard",
    "cell phone", "microwave", "oven", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "toothbrush",
]  # fmt: skip
NAMING = {  # column: published four-shot set, splits of CoOp (arXiv 2109.01134) whose test sizes are the published ones
    "Flower102": ("ViRFT_CLS_flower_4_shot", "OxfordFlowers"), "Pets37": ("ViRFT_CLS_pets37_4shot", "OxfordPets"),
    "FGVC-Aircraft": ("ViRFT_CLS_fgvc_aircraft_4_shot", "FGVCAircraft"),
    "Cars196": ("ViRFT_CLS_car196_4shot", "StanfordCars"),
}  # fmt: skip
MAP = "published-map"  # a category is asked for only where the untrained model of the same size says it is


def grpo_settings(model: str, steps: int, checkpointing: bool) -> dict:
    """Every setting of Visual-RFT, with where it is from."""
    return dict(
        steps=(steps, "published script" if steps == 750 else "paper"), prompts=(1, "published script"),
        group=(8 if model == "2B" else 4, "published script"), learning_rate=(1e-6, "TRL default of then"),
        schedule=("linear", "TRL default of then"), warmup=(0, "TRL default of then"),
        beta=(0.04, "TRL default of then"), loss=("grpo", "published code"), scale=("group", "published code"),
        temperature=(1.0, "published code"), max_completion_length=(256, "TRL default of then"),
        rewards=("released", "published code"), lora_rank=(0, "published code"),
        frozen_vision=(False, "published code"), max_pixels=(401408, "published code"),
        checkpointing=(checkpointing, "published script"),
    )  # fmt: skip


SFT = dict(
    steps=(200, "authors, issue 34"), batch=(1, "authors, issue 34"), learning_rate=(1e-4, "not known"),
    schedule=("linear", "not known"), warmup=(100, "authors, issue 34"), weight_decay=(0.1, "authors, issue 34"),
    lora_rank=(8, "not known"), frozen_vision=(True, "not known"), max_pixels=(401408, "our choice"),
    checkpointing=(False, "our choice"), dtype=("bfloat16", "our choice"),
)  # fmt: skip
A100, EIGHT = "one A100 with 80 GB", "eight A100 with 80 GB"
L4, T4 = "one L4 with 24 GB", "one T4 with 16 GB"
ADAPTERS = dict(lora_rank=64, learning_rate=1e-5, checkpointing=True)


def grpo_sizes(model: str) -> dict:
    """What changes on smaller machines: all make 16 prompts a step."""
    low = "adapters at the rank and rate with which VLM-R1 trains its own"
    if model == "2B":
        return {
            "8xa100": dict(machine=EIGHT, launch="ddp", devices=8, settings=dict(accumulate=2, dtype="float32"),
                           note="as published, but with 32-bit weights on every card instead of DeepSpeed's shards"),
            "a100": dict(machine=A100, settings=dict(accumulate=16, dtype="float32", checkpointing=True),
                         note="all weights, the 16 prompts of a step one after the other"),
            "l4": dict(machine=L4, settings=ADAPTERS | dict(accumulate=16, dtype="bfloat16"), note=low),
            "t4": dict(machine=T4, settings=ADAPTERS | dict(accumulate=16, dtype="float16", max_pixels=200704),
                       note=low + "; no bfloat16 on this card, and half the pixels"),
        }  # fmt: skip
    return {
        "8xa100": dict(machine=EIGHT, launch="fsdp2", devices=8, settings=dict(accumulate=2, dtype="bfloat16"),
                       note="as published, but sharded by FSDP2, which keeps 32-bit weights, instead of DeepSpeed"),
        "a100": dict(machine=A100, settings=ADAPTERS | dict(accumulate=16, dtype="bfloat16"), note=low),
        "l4": dict(machine=L4, settings=ADAPTERS | dict(accumulate=16, dtype="bfloat16", quantised=True),
                   note=low + "; frozen weights in 4 bits"),
        "t4": dict(machine=T4, note=low + "; frozen weights in 4 bits, half the pixels", settings=ADAPTERS | dict(
            accumulate=16, dtype="float16", quantised=True, max_pixels=200704)),
    }  # fmt: skip


def sft_sizes(model: str) -> dict:
    """The same for SFT: all make 64 rows a step."""
    small = dict(accumulate=64, checkpointing=True)
    t4 = dict(dtype="float16", max_pixels=200704) | (dict(quantised=True) if model == "7B" else {})
    return {
        "8xa100": dict(machine=EIGHT, launch="ddp", devices=8, settings=dict(accumulate=8),
                       note="as far as it is known"),
        "a100": dict(machine=A100, settings=dict(accumulate=64), note="the 64 rows of a step one after the other"),
        "l4": dict(machine=L4, settings=small, note="activations computed again"),
        "t4": dict(machine=T4, settings=small | t4, note="no bfloat16 on this card, and half the pixels"
                   + ("; frozen weights in 4 bits" if model == "7B" else "")),
    }  # fmt: skip


def recipe(rows: list, task: str, data: dict, tests: list, steps: int = 200, column: str = "") -> dict:
    """A whole recipe."""
    _, model, _, method = rows[0]
    grpo = method == "Visual-RFT"
    settings = grpo_settings(model, steps, rows[0][0] == 6) if grpo else SFT
    return dict(
        rows=rows, column=column, method="grpo" if grpo else "sft", task=task,
        model=f"Qwen/Qwen2-VL-{model}-Instruct", data=data, tests=tests,
        settings={name: value for name, (value, _) in settings.items()},
        sources={name: source for name, (_, source) in settings.items()},
        sizes=grpo_sizes(model) if grpo else sft_sizes(model),
    )  # fmt: skip


def naming(shots: int, method: str) -> dict[str, dict]:
    """Table 2: one training for each of the four data sets."""
    found = {}
    for column, (hub, coop) in NAMING.items():
        source = f"laolao77/{hub}" if shots == 4 else f"coop:{coop}"
        test = dict(protocol="accuracy", source=f"coop:{coop}", measure=column)
        found[column.lower()] = recipe([[2, "2B", f"{shots}-shot", method]], "classification",
                                       dict(source=source, shots=shots), [test], column=column)  # fmt: skip
    return found


def few_shot(model: str, shots: int, method: str) -> dict:
    """Table 3."""
    source = "laolao77/ViRFT_COCO_8_cate_4_shot" if shots == 4 else "coco:train2017"
    test = dict(protocol="coco-ap", source="coco:val2017", measure="mAP", categories=FEW_SHOT, questions=MAP)
    return recipe([[3, model, f"{shots}-shot", method]], "detection",
                  dict(source=source, shots=shots, categories=FEW_SHOT), [test])  # fmt: skip


def rare(model: str, method: str) -> dict:
    """Table 4."""
    test = dict(protocol="lvis-ap", source="lvis:val", measure="mAP", categories=RARE, questions=MAP)
    return recipe([[4, model, "10-shot", method]], "detection",
                  dict(source="laolao77/ViRFT_LVIS_few_shot", shots=10, categories=RARE), [test])  # fmt: skip


def grounding(model: str, method: str) -> dict:
    """Table 6."""
    tests = [dict(protocol=protocol, source=f"reasonseg:{split}", measure=f"{measure}_{split}")
             for protocol, measure, split in (("box-iou", "mIoU", "test"), ("box-iou", "mIoU", "val"),
                                              ("mask-iou", "gIoU", "test"))]  # fmt: skip
    return recipe([[6, model, "-", method]], "grounding", dict(source="reasonseg:train"), tests, 500)


def open_vocabulary(model: str, method: str) -> dict:
    """Tables 7 and 8: one training, tested twice."""
    tests = [dict(protocol="coco-ap", source="coco:val2017", measure=measure, categories=names, questions=MAP)
             for measure, names in (("mAP_n", NOVEL), ("mAP_b", BASE), ("mAP_all", NOVEL + BASE))]  # fmt: skip
    tests.append(dict(protocol="lvis-ap", source="lvis:val", measure="mAP", categories=RARER, questions=MAP))
    return recipe([[table, model, "-", method] for table in (7, 8)], "detection",
                  dict(source="laolao77/ViRFT_COCO_base65", categories=BASE), tests, 750)  # fmt: skip


def all_recipes() -> dict[str, dict]:
    """Every recipe by its name."""
    found = {}
    for method, end in (("Visual-RFT", "grpo"), ("SFT", "sft")):
        for shots in (1, 2, 4, 8, 16):
            found |= {f"table2-2b-{shots}shot-{name}-{end}": made for name, made in naming(shots, method).items()}
            found[f"table3-2b-{shots}shot-{end}"] = few_shot("2B", shots, method)
        found[f"table3-7b-4shot-{end}"] = few_shot("7B", 4, method)
        for model in ("2B", "7B"):
            size = model.lower()
            found[f"table4-{size}-10shot-{end}"] = rare(model, method)
            found[f"table6-{size}-{end}"] = grounding(model, method)
            found[f"table7-{size}-{end}"] = open_vocabulary(model, method)
    return found


class _Dumper(yaml.SafeDumper):
    """Lists of plain values on one line, everything else one entry a line; no references."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _list(dumper: _Dumper, values: list) -> yaml.Node:
    flat = not any(isinstance(value, (list, dict)) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flat)


_Dumper.add_representer(list, _list)


def text_of(name: str, made: dict) -> str:
    """A recipe as YAML, with a comment that says what it is."""
    rows = " and ".join('table {}, row "{} {} {}"'.format(*row) for row in made["rows"])
    column = f", column {made['column']}" if made["column"] else ""
    head = f"# {name}: {rows}{column} of arXiv 2503.01785.\n# Written by tools/make_recipes.py. Never run on a GPU.\n"
    return head + yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=116)


def main() -> None:
    """Write all files anew."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    for name, made in all_recipes().items():
        (FOLDER / f"{name}.yaml").write_text(text_of(name, made), encoding="utf-8")


if __name__ == "__main__":
    main()
