"""Open the pages that `visual-rft report` writes in a real browser, and fail if they do what they promise not to do.

    pip install playwright      # and Chromium from the system, for example `apt-get install chromium`
    python tools/browser_report.py [RUN ...] [--pictures FOLDER]

Each page is opened from a file, in light and dark, wide and narrow, on paper, with JavaScript and without. Nothing may
be asked for but the file itself, the console must stay empty, and no page may be wider than its window. One more run
has hostile texts wherever a text can stand: they must be seen as texts and must not run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from visual_rft.report import LARGEST, write_report

RUNS = Path(__file__).parents[1] / "data" / "runs"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
ACT = "document.documentElement.dataset.hit=1"
EVIL = (f"</td></script><script>{ACT}</script><img src=x onerror={ACT}><a href=javascript:{ACT}>x</a>\"'>"
        f"<svg onload={ACT}>")  # fmt: skip
WAYS = {
    "light": dict(color_scheme="light"), "dark": dict(color_scheme="dark"),
    "narrow": dict(viewport=dict(width=390, height=844)), "without-javascript": dict(java_script_enabled=False),
}  # fmt: skip


def hostile_run(folder: Path) -> Path:
    """The recorded run with groups, with hostile texts in it and around it."""
    run = folder / "<img src=x onerror=document.documentElement.dataset.hit=1>"
    shutil.copytree(RUNS / "groups-grpo", run)
    groups = [json.loads(line) for line in (run / "groups.jsonl").read_text(encoding="utf-8").splitlines()]
    for group in groups:
        group |= dict(problem=EVIL, completions=[f"<think>{EVIL}</think><answer>{EVIL}</answer>"] * 8)
        group["rewards"] = {EVIL: group["rewards"]["detection_iou"]}
    (run / "groups.jsonl").write_text("".join(json.dumps(group) + "\n" for group in groups), encoding="utf-8")
    texts = {"config.json": json.dumps({EVIL: EVIL, "command": EVIL, "task": "detection"}), "env.json": "{",
             "summary.json": json.dumps({EVIL: 1}), "completions.jsonl": json.dumps(EVIL) + "\n",
             "table.md": f"| {EVIL} |\n", "metrics.csv": f"step,{EVIL.replace(',', '')}\n1,1\n"}  # fmt: skip
    for name, text in texts.items():
        (run / name).write_text(text, encoding="utf-8")
    return run


def watched_page(browser: Browser, file: Path, way: dict) -> tuple[Page, list[str]]:
    """A page that is open, and everything that it did and should not have done."""
    page, seen = browser.new_context(**(dict(viewport=dict(width=1280, height=900)) | way)).new_page(), []
    page.on("console", lambda message: seen.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (seen.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: None if request.url == file.as_uri() or request.url.startswith("data:image/")
            else seen.append(f"request: {request.url}"))  # fmt: skip
    page.goto(file.as_uri())
    page.wait_for_timeout(300)
    return page, seen


def contrast(page: Page, selector: str) -> float:
    """The contrast of a text with the page behind it, as the guidelines for accessible pages count it."""
    colours = page.evaluate("s => [getComputedStyle(document.querySelector(s)).color, "
                            "getComputedStyle(document.body).backgroundColor]", selector)  # fmt: skip
    light = []
    for colour in colours:
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light.append(sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    return (max(light) + 0.05) / (min(light) + 0.05)


def check_look(page: Page, way: str) -> list[str]:
    """Whether a page can be read."""
    found = []
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("wider than its window")
    if page.evaluate("document.documentElement.dataset.hit"):
        found.append("a hostile text ran")
    if page.evaluate("[...document.images].some(each => each.complete && !each.naturalWidth)"):
        found.append("an image is broken")
    found += [f"{selector} has little contrast" for selector in ("h2", "nav a") if contrast(page, selector) < 4.5]
    return [f"{way}: {fault}" for fault in found]


def check_steps(page: Page, script: bool) -> list[str]:
    """Whether the steps open by a click and, where scripts run, by the slider."""
    steps, found = page.locator("details.step"), []
    if steps.count() < 2:
        return found
    if page.locator("label").first.is_visible() != script:
        found.append(f"the slider is {'hidden' if script else 'shown'}")
    if script:
        page.locator("input[type=range]").first.fill("0")
    else:
        steps.first.locator("summary").first.click()
    if not steps.first.locator("table").first.is_visible():
        found.append("the first step does not open")
    if script and steps.last.locator("table").first.is_visible():
        found.append("the last step does not close")
    return found


def check_paper(page: Page) -> list[str]:
    """Whether what is folded away is printed, also when no script opens it."""
    page.emulate_media(media="print")
    tables = "[...document.querySelectorAll('details table')]"
    count = page.evaluate(f"{tables}.filter(each => !each.getBoundingClientRect().height).length")
    return [f"{count} tables are not printed"] if count else []


def check_policy(page: Page) -> list[str]:
    """Whether the policy stops a script and a picture that got into the page in spite of all."""
    page.evaluate("""() => {
        addEventListener("securitypolicyviolation", each => (window.stopped ||= []).push(each.effectiveDirective));
        const script = document.createElement("script"), image = new Image();
        script.textContent = "document.documentElement.dataset.hit = 1";
        image.src = "http://127.0.0.1:9/x.png";
        document.body.append(script, image);
    }""")
    page.wait_for_timeout(300)
    stopped = page.evaluate("window.stopped || []")
    ran = page.evaluate("document.documentElement.dataset.hit")
    return [] if not ran and {"script-src-elem", "img-src"} <= set(stopped) else [f"the policy stopped {stopped} only"]


def check_page(browser: Browser, file: Path, pictures: Path | None) -> list[str]:
    """Everything that is wrong with a page."""
    found = [] if file.stat().st_size < LARGEST else ["too large"]
    for name, way in WAYS.items():
        page, seen = watched_page(browser, file, way)
        found += check_look(page, name)
        if pictures:
            page.screenshot(path=pictures / f"{file.stem}-{name}.png", full_page=True)
        script = way.get("java_script_enabled", True)
        found += [f"{name}: {fault}" for fault in check_steps(page, script) + check_paper(page) + seen]
        if script:
            found += check_policy(page)
        page.context.close()
    return found


def check_evil(browser: Browser, file: Path) -> list[str]:
    """Whether the hostile texts are there to be read."""
    page, _ = watched_page(browser, file, {})
    count = page.evaluate("text => document.body.textContent.split(text).length - 1", EVIL[:200])
    page.context.close()
    return [] if count > 100 else [f"hostile texts are shown {count} times only"]


def main() -> int:
    """Check the pages; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [RUNS / name for name in ("groups-grpo", "compare-seed0", "tiny-vlm", "bench-step")]
    parser.add_argument("runs", nargs="*", type=Path, default=usual, metavar="RUN",
                        help="folders (default: four of data/runs)")  # fmt: skip
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="keep screenshots there")
    arguments = parser.parse_args()
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    faults = []
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        scratch = Path(place)
        for run in [*arguments.runs, hostile_run(scratch)]:
            hostile = run.parent == scratch
            file = write_report(run, scratch / ("hostile.html" if hostile else f"{run.name}.html"))
            found = check_page(browser, file, arguments.pictures) + (check_evil(browser, file) if hostile else [])
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB, {'; '.join(found) or 'as promised'}", flush=True)
            faults += found
        browser.close()
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
