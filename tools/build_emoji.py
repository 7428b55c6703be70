"""Make the emoji bank again from its public packages:  python tools/build_emoji.py FOLDER

Needs npm on the path and `pip install resvg_py`. Fetches pinned packages, renders every drawing that the manifest
lists at 96 pixels, writes FOLDER/*.webp, and prints how far each lies from the shipped file.
"""

import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

ASSETS = Path(__file__).parents[1] / "data" / "assets"
SIDE = 96  # pixels
METADATA = ("emojibase-data", "17.0.0")


def slug(text: str) -> str:
    """Lower case with hyphens, as icon names are written."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("’", "").replace("'", "")).strip("-")


def fetch(package: str, version: str, folder: Path) -> Path:
    """Download one npm package and unpack it; returns its folder."""
    target = folder / slug(f"{package} {version}")
    target.mkdir()
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"{package}@{version}"], cwd=target, check=True, capture_output=True, text=True
    )
    with tarfile.open(target / packed.stdout.split()[-1]) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


class Emoji:
    """Code points and names of emoji."""

    def __init__(self, package: Path):
        self.by_label = {slug(entry["label"]): entry for entry in read(package / "en" / "data.json")}
        self.names = read(package / "meta" / "unicode-names.json")

    def codes(self, label: str) -> list[str]:
        """The ways in which packages write the code points of an emoji."""
        code = self.by_label[label]["hexcode"].lower()
        short = code.replace("-fe0f", "")
        return [code, short, f"{short}-fe0f"]

    def spellings(self, label: str) -> list[str]:
        """The names under which packages may keep an emoji."""
        name = slug(self.names.get(self.by_label[label]["hexcode"], ""))
        return [label, f"{label}-1", f"{label}-2", label.replace("-", ""), name, name.replace("-", "")]


def svg(icons: dict, name: str) -> str:
    """One icon of an Iconify set as a whole SVG document."""
    icon = icons["icons"].get(name) or icons["icons"][icons["aliases"][name]["parent"]]
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{SIDE}" height="{SIDE}">{icon["body"]}</svg>'
    )


def draw(package: Path, emoji: Emoji, label: str) -> Image.Image:
    """One emoji in one package's style; raises KeyError when the package lacks it."""
    if (package / "assets").is_dir():
        for code in emoji.codes(label):
            path = package / "assets" / f"{code}.webp"
            if path.is_file():
                return Image.open(path).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        raise KeyError(label)
    icons, codes = read(package / "icons.json"), read(package / "chars.json")
    found = [codes[code] for code in emoji.codes(label) if code in codes]
    known = {**icons["icons"], **icons.get("aliases", {})}
    found += [name for name in emoji.spellings(label) if name in known]
    if not found:
        raise KeyError(label)
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg(icons, found[0]))))).convert("RGBA")


def difference(first: Path, second: Path) -> float:
    """Mean absolute difference of two drawings over colour and opacity, 0 to 255."""
    pair = [np.asarray(Image.open(path).convert("RGBA"), float) for path in (first, second)]
    return float(np.abs(pair[0] * (pair[0][..., 3:] > 0) - pair[1] * (pair[1][..., 3:] > 0)).mean())


def main(target: Path) -> None:
    """Build every drawing that the manifest lists."""
    with (ASSETS / "manifest.jsonl").open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["bank"] == "bank_emoji"]
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        emoji = Emoji(fetch(*METADATA, Path(name)))
        packages = {key: fetch(*key, Path(name)) for key in {(row["package"], row["version"]) for row in rows}}
        gaps = []
        for row in rows:
            file = Path(row["file"])
            picture = draw(packages[row["package"], row["version"]], emoji, slug(row["label"]))
            picture.save(target / file.name, quality=90, method=6)
            gaps.append(difference(target / file.name, ASSETS / file))
    print(f"{len(rows)} drawings; mean difference from the shipped ones {np.mean(gaps):.2f}, largest {max(gaps):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
