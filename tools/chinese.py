"""The Chinese workbook: keeps docs/zh in step with the English texts, and puts the two together.

    python tools/chinese.py                      every text that is missing or out of date, in words
    python tools/chinese.py todo 05_advantages   the English of what has to be translated, in the form of docs/zh
    python tools/chinese.py notebooks build/zh   the main notebooks with Chinese prose, code and outputs as they are

A file of docs/zh holds the prose of one notebook (or of README.md), piece by piece. Above each piece stands a comment
with the cell it belongs to (in README, p and the hash) and the first letters of a hash of its English text:
`<!-- c001 1a2b3c4d -->`. When the
English changes, the hash no longer fits, and tests/test_chinese.py names the piece.
"""

import argparse
import copy
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHINESE = ROOT / "docs" / "zh"
MAIN = [path.stem for path in sorted((ROOT / "nbs").glob("[01][0-9]_*.ipynb")) if path.stem < "16"]
MARK = re.compile(r"^<!-- (\w+) ([0-9a-f]{8}) -->$", re.MULTILINE)
Pieces = dict[str, tuple[str, str]]  # place -> hash of the English, text


def digest(text: str) -> str:
    """The first letters of a hash of a text, without blanks at its ends."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:8]


def paragraphs(text: str) -> list[str]:
    """Markdown cut at its blank lines, code between fences kept whole."""
    found, fenced = [[]], False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if line.strip() or fenced:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


def english(name: str) -> Pieces:
    """The pieces of README or of a notebook."""
    if name == "README":
        texts = {"p" + digest(text): text for text in paragraphs((ROOT / "README.md").read_text("utf-8"))}
    else:
        cells = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text("utf-8"))["cells"]
        texts = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"}
    return {place: (digest(text), text) for place, text in texts.items()}


def chinese(name: str) -> Pieces:
    """The translated pieces of README or of a notebook; none where there is no file yet."""
    path = CHINESE / f"{name}.md"
    parts = MARK.split(path.read_text("utf-8")) if path.is_file() else [""]
    return {place: (known, text.strip()) for place, known, text in zip(parts[1::3], parts[2::3], parts[3::3])}


def kept(text: str) -> dict[str, Counter]:
    """What a translation must not change: formulas, code, targets of links, rows of tables, items of lists."""
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    bare = re.sub(r"```.*?```|`[^`\n]+`", "", text, flags=re.DOTALL)
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", bare, re.DOTALL)
    targets = [target.removeprefix("../../") for target in re.findall(r"\]\(([^)\s]+)", bare)]
    return dict(code=Counter(code), formulas=Counter(re.sub(r"\\text\{[^}]*\}|\s", "", each) for each in formulas),
                links=Counter(targets), rows=Counter(table=len(re.findall(r"^\|", bare, re.MULTILINE))),
                items=Counter(items=len(re.findall(r"^\s*(?:[*-]|\d+\.) ", bare, re.MULTILINE))),
                headings=Counter(re.findall(r"^(#+) ", bare, re.MULTILINE)))


def faults(name: str) -> list[str]:
    """Every piece of a text whose translation is missing, out of date, left over or incomplete."""
    source, target, found = english(name), chinese(name), []
    for place, (expected, text) in source.items():
        known, translated = target.get(place, ("", ""))
        if known != expected:
            found.append(f"{name} {place}: {'the English has changed' if known else 'not translated'}")
            continue
        before, after = kept(text), kept(translated)
        found += [f"{name} {place}: other {part}" for part in before if before[part] != after[part]]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        if len(prose.split()) > 12 and not re.search(r"[\u4e00-\u9fff]", translated):
            found.append(f"{name} {place}: not Chinese")
    found += [f"{name} {place}: no such place" for place in target if place not in source]
    if not found and list(source) != list(target):
        found.append(f"{name}: another order")
    return found


def todo(name: str) -> str:
    """The English of what is missing or out of date, each piece under the comment that its translation gets."""
    late = {fault.split()[1].rstrip(":") for fault in faults(name)}
    return "\n\n".join(f"<!-- {place} {known} -->\n{text.strip()}" for place, (known, text) in english(name).items()
                       if place in late)


def notebook(name: str) -> dict:
    """A notebook with Chinese prose; a piece without translation stays English."""
    book = copy.deepcopy(json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text("utf-8")))
    texts = chinese(name)
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown" and cell["id"] in texts:
            cell["source"] = texts[cell["id"]][1].splitlines(keepends=True)
    return book


def write_notebooks(folder: Path) -> None:
    """The main notebooks with Chinese prose."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MAIN:
        text = json.dumps(notebook(name), indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("faults", "todo", "notebooks"), default="faults", help="as above")
    parser.add_argument("which", nargs="?", help="README or a notebook; for notebooks, the folder to write them to")
    chosen = parser.parse_args()
    if chosen.what != "faults" and not chosen.which:
        parser.error(f"{chosen.what} needs one word more")
    if chosen.what == "todo":
        print(todo(chosen.which))
    elif chosen.what == "notebooks":
        write_notebooks(Path(chosen.which))
    else:
        print("\n".join(fault for name in ("README", *MAIN) for fault in faults(name)) or "everything is translated")


if __name__ == "__main__":
    main()
