"""Use the widgets as a reader does: JupyterLab in a real browser, every tool of notebook 15d moved, in both themes.

    pip install playwright                            # only this script needs it
    python tools/browser_widgets.py runs/browser      # writes screenshots there, prints what was tried

It needs JupyterLab, the packages of this project and Chromium (`--chromium` says where; no browser is downloaded).
JupyterLab runs on a port of this machine only, without your own settings, on a copy of the notebook. The script ends
with an error when a widget does not answer, when text from outside acts, or when the page asks for anything that is
not on this machine. Where jupyter_bbox_widget is installed, a box is dragged with the mouse; else a slider is.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
FLAGS = ("--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
         "--no-first-run").split()  # fmt: skip
ATTACK = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
INSIDE = ("data:", "blob:", "about:")  # addresses of what the page holds already
HANDLE = ".noUi-handle, .ui-slider-handle"  # of a slider of ipywidgets 8, and of 7
PATIENCE = 120_000  # milliseconds: a busy machine starts a kernel slowly


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def settings(folder: Path, theme: str) -> None:
    """Settings of JupyterLab: a theme, no news from elsewhere, all cells on the page."""
    chosen = {
        "apputils-extension/themes": {"theme": f"JupyterLab {theme.title()}"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    }
    for name, values in chosen.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")


@contextlib.contextmanager
def jupyter(command: str, notebook: Path, theme: str) -> Iterator[str]:
    """A JupyterLab of its own with a copy of a notebook; its address."""
    with tempfile.TemporaryDirectory() as scratch:
        place, port = Path(scratch), free_port()
        (place / "notebooks").mkdir()
        shutil.copy(notebook, place / "notebooks" / "widgets.ipynb")
        settings(place / "settings", theme)
        own = dict(JUPYTER_RUNTIME_DIR="runtime", JUPYTER_CONFIG_DIR="config", JUPYTER_DATA_DIR="data",
                   IPYTHONDIR="ipython", JUPYTERLAB_SETTINGS_DIR="settings",
                   JUPYTERLAB_WORKSPACES_DIR="workspaces")  # fmt: skip
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {name: str(place / value) for name, value in own.items()} | dict(PYTHONPATH=path)
        options = ["--no-browser", "--allow-root", "--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1",
                   f"--ServerApp.port={port}", f"--ServerApp.root_dir={place / 'notebooks'}"]  # fmt: skip
        server = subprocess.Popen([command, "lab", *options], env=environment, stderr=subprocess.DEVNULL)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status", server)
            yield f"http://127.0.0.1:{port}/lab/tree/widgets.ipynb"
        finally:
            server.terminate()
            server.wait(timeout=60)


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Wait until a server answers."""
    for _ in range(400):
        if server.poll() is not None:
            raise SystemExit(f"JupyterLab ended with status {server.returncode}")
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.3)
    raise SystemExit("JupyterLab did not start")


def idle(page: Page) -> None:
    """Wait until the kernel has nothing to do."""
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", state="attached", timeout=PATIENCE)


def run_all(page: Page, address: str) -> list[Locator]:
    """Open the notebook, run all cells, and return the four live widgets."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE)
    page.wait_for_selector("text=/Python 3.*Idle/", timeout=PATIENCE)  # before that, Run All is forgotten
    page.wait_for_timeout(2000)
    page.locator('.lm-MenuBar-itemLabel:text-is("Run")').click()
    page.locator('.lm-Menu-itemLabel:text-is("Run All Cells")').click()
    expect(page.locator(".jp-CodeCell .jp-InputPrompt").last).to_have_text(re.compile(r"\[\d+\]:"), timeout=PATIENCE)
    idle(page)
    outputs = page.locator(".jp-CodeCell .jp-OutputArea-output:has(.jupyter-widgets)")
    expect(outputs).to_have_count(4, timeout=PATIENCE)
    return [outputs.nth(number) for number in range(4)]


def press(page: Page, place: Locator, key: str, times: int = 1) -> None:
    """Press a key on a control."""
    place.focus()
    for _ in range(times):
        page.keyboard.press(key)
        idle(page)


def use_inspector(page: Page, tool: Locator) -> str:
    """Step through the training by keyboard; show one completion."""
    expect(tool).to_contain_text("After 0 steps", timeout=PATIENCE)
    for step in (10, 20, 30, 40):
        press(page, tool.locator(HANDLE).first, "ArrowRight")
        expect(tool).to_contain_text(f"After {step} steps", timeout=PATIENCE)
    rows = tool.locator("th[scope=row]")
    expect(rows).to_have_count(16)
    tool.get_by_role("button", name="3", exact=True).click()
    expect(rows).to_have_count(2, timeout=PATIENCE)
    tool.get_by_role("button", name="all", exact=True).click()
    expect(rows).to_have_count(16, timeout=PATIENCE)
    return "inspector: four steps on by keyboard, one completion of two runs, all again"


def use_playground(page: Page, tool: Locator) -> str:
    """Move a box with the mouse, type a number, add and remove a box."""
    said, drawn = tool.locator(".widget-html bdi").first, tool.locator("svg rect.movable")
    before, dragged = said.inner_text(), drawn.count() > 0
    place = (drawn if dragged else tool.locator(HANDLE)).first
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y + 12, steps=6)
    page.mouse.up()
    expect(said).not_to_have_text(before, timeout=PATIENCE)
    number = tool.locator(".widget-readout").nth(2)
    number.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("777")
    page.keyboard.press("Enter")
    expect(said).to_contain_text("777", timeout=PATIENCE)
    for button, boxes in (("add a box", 4), ("remove this box", 3)):
        tool.get_by_role("button", name=button).click()
        expect(tool.locator("select option")).to_have_count(boxes, timeout=PATIENCE)
    return f"playground: a {'box' if dragged else 'slider'} dragged, a number typed, a box added and removed"


def use_tester(page: Page, tool: Locator) -> str:
    """Paste an attack; it must be there to read and do nothing."""
    tool.locator("textarea").nth(1).fill(f"<think>{ATTACK}</think><answer>{ATTACK}</answer>")
    press(page, tool.locator("textarea").nth(1), "Tab")
    cells = tool.locator("td bdi", has_text=ATTACK)
    expect(cells).to_have_count(2, timeout=PATIENCE)
    page.wait_for_timeout(1000)
    assert page.evaluate("window.hacked") is None, "text from a completion was executed"
    assert tool.locator("script, img[src=x]").count() == 0, "text from a completion became an element"
    return "tester: an attack was pasted, is shown as text and did nothing"


def use_viewer(page: Page, tool: Locator) -> str:
    """Turn a page, choose a category."""
    expect(tool).to_contain_text("page 1 of 6", timeout=PATIENCE)
    tool.get_by_role("button", name="next page").click()
    expect(tool).to_contain_text("page 2 of 6", timeout=PATIENCE)
    tool.locator("select").first.select_option(index=1)
    expect(tool).to_contain_text("4 of 32 rows", timeout=PATIENCE)
    return "viewer: a page turned, a category chosen"


USES = (use_inspector, use_playground, use_tester, use_viewer)


def try_theme(browser: Browser, address: str, folder: Path, theme: str) -> list[str]:
    """Use all tools in a theme and photograph them; what was done, and what the page asked for elsewhere."""
    page, asked = browser.new_page(viewport=dict(width=1700, height=2400)), []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda place: asked.append(place.url))
    done = []
    try:
        for use, tool in zip(USES, run_all(page, address), strict=True):
            done.append(use(page, tool))
            idle(page)
            tool.screenshot(path=folder / f"{use.__name__.removeprefix('use_')}-{theme}.png")
    except Exception:
        page.screenshot(path=folder / f"failure-{theme}.png")
        raise
    elsewhere = [url for url in asked if not url.startswith(INSIDE) and urlparse(url).hostname != "127.0.0.1"]
    assert asked and not elsewhere, f"the page asked for {elsewhere}"
    page.close()
    return [*done, f"{len(asked)} requests, all to this machine"]


def main() -> None:
    """Both themes, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the screenshots")
    parser.add_argument("--notebook", type=Path, default=ROOT / "nbs" / "15d_widgets.ipynb")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium", help="default: %(default)s")
    beside = str(Path(sys.executable).with_name("jupyter"))
    parser.add_argument("--jupyter", default=beside, help="default: %(default)s")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        with jupyter(arguments.jupyter, arguments.notebook, theme) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=arguments.chromium, args=FLAGS)
            for line in try_theme(browser, address, arguments.out, theme):
                print(f"{theme}: {line}", flush=True)
            browser.close()


if __name__ == "__main__":
    main()
