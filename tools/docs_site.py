"""The docs site: hooks that mkdocs runs (mkdocs.yml). Pages keep their paths, so that links work there and here."""

import re
from collections import Counter
from importlib.resources import files as files_of
from pathlib import Path

import chinese
import jieba
from docs_api import api_pages
from markdown.extensions.toc import nest_toc_tokens
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import get_toc
from nbconvert.filters.markdown_mistune import IPythonRenderer

ROOT = Path(__file__).parents[1]
WRITTEN = ["README.md", "data/assets/ATTRIBUTION.md", "docs/zh/README.md",
           *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COPIED = ["nbs/*.ipynb", "docs/assets/*"]
API = api_pages(ROOT / "visual_rft")

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CODE_NAME = re.compile(r"(?<!\[)`(\w+)\.(\w+)[^`]*`")
APART = re.compile(r"(<(pre|code|a|h[1-6])\b.*?</\2>|<[^>]*>)", re.DOTALL)  # where no notebook is mentioned
MENTION = re.compile(r"\b[Nn]otebooks?(?:\s(?:and|to|or)?\s?,?\s?\d\d[a-e]?\b,?)+|"
                     r"笔记本(?:[\s和至到、与或]*\d\d[a-e]?)+")


def inline_math(renderer: IPythonRenderer, body: str) -> str:
    """A formula in a line of a notebook, marked so that only formulas are typeset and no other dollar sign."""
    return rf'<span class="arithmatex">\({renderer.escape_html(body)}\)</span>'


def block_math(renderer: IPythonRenderer, body: str) -> str:
    """A formula on lines of its own."""
    return rf'<div class="arithmatex">\[{renderer.escape_html(body)}\]</div>'


def on_config(config: MkDocsConfig) -> None:
    """Formulas of notebooks as those of other pages; words for the search; pages about functions and in Chinese."""
    IPythonRenderer.inline_math, IPythonRenderer.block_math = inline_math, block_math
    jieba.setLogLevel("WARNING")
    (ROOT / "build").mkdir(exist_ok=True)
    jieba.dt.tmp_dir = str(ROOT / "build")  # its dictionary is kept where nobody else writes
    config.nav.insert(-1, {"Functions": [f"api/{name}.md" for name in API]})
    pages = [{f"{name[:2]} {chinese_title(name)}": f"zh/{name}.ipynb"} for name in chinese.MAIN]
    config.nav.insert(-1, {"中文": [{"首页": "docs/zh/README.md"}, *pages]})


def chinese_title(name: str) -> str:
    """The heading of a notebook in Chinese."""
    return next(iter(chinese.chinese(name).values()))[1].splitlines()[0].removeprefix("# ")


@event_priority(100)  # before the plugin that looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Every page and picture under the path that it has in the repository."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    found = [path.relative_to(ROOT).as_posix() for pattern in COPIED for path in sorted(ROOT.glob(pattern))]
    for name in WRITTEN + found + pictures():
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    chinese.write_notebooks(ROOT / "build" / "zh")
    for name in chinese.MAIN:
        files.append(File(f"zh/{name}.ipynb", str(ROOT / "build"), config.site_dir, config.use_directory_urls))
    for name, text in API.items():
        files.append(File.generated(config, f"api/{name}.md", content=text))
    mathjax = files_of("mathjax") / "static/mathjax/es5/tex-svg.js"
    files.append(File.generated(config, "docs/assets/tex-svg.js", abs_src_path=str(mathjax)))
    return files


def target(link: str, source: str) -> str:
    """The path in the repository that a link in a page means; empty for an address or an anchor."""
    if re.match(r"[a-z]+:|#", link):
        return ""
    return (ROOT / source).parent.joinpath(link.split("#")[0]).resolve().relative_to(ROOT).as_posix()


def pictures() -> list[str]:
    """The pictures that written pages show."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in WRITTEN}
    return [target(link, name) for name, text in texts.items() for sign, _, link in LINK.findall(text) if sign]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to what is not on the site become plain text; names of functions become links to their page."""
    source = page.file.src_uri
    if source not in WRITTEN:
        return markdown

    def kept(match: re.Match) -> str:
        path = target(match[3], source)
        return match[0] if not path or files.get_file_from_path(path) else match[2]

    def linked(match: re.Match) -> str:
        module, name = match[1], match[2]
        if f"{{ #{name} }}" not in API.get(module, "") and f'id="{name}"' not in API.get(module, ""):
            return match[0]
        return f"[{match[0]}]({'../' * source.count('/')}api/{module}.md#{name})"

    return CODE_NAME.sub(linked, LINK.sub(kept, markdown))


def without_frame(html: str) -> str:
    """The cells of a notebook without the style sheets and scripts around them, code as elsewhere on the site."""
    html = html[html.index('<div class="jupyter-wrapper">') :]
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    html = re.sub(r'<div class="zeroclipboard-container">.*?</clipboard-copy>\s*</div>', "", html, flags=re.DOTALL)
    html = re.sub(r'<div class="clipboard-copy-txt".*?</div>', "", html, flags=re.DOTALL)
    code = re.compile(r'<div class="highlight-ipynb[^"]*"><pre>(.*?)</pre></div>', re.DOTALL)
    html = code.sub(r'<div class="highlight"><pre><code>\1</code></pre></div>', html)
    return html.replace('class="anchor-link"', 'class="headerlink"')


def with_contents(html: str, page: Page) -> str:
    """The headings of a notebook with a name of their own each; they become the page's table of contents."""
    seen, tokens = Counter(), []

    def named(match: re.Match) -> str:
        level, name, text = match.groups()
        own = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
        tokens.append({"level": int(level), "id": own, "name": re.sub("<[^>]*>", "", text), "html": text})
        return f'<h{level} id="{own}">{text}<a class="headerlink" href="#{own}">'

    html = re.sub(r'<h([1-6]) id="([^"]*)">(.*?)<a class="headerlink" href="[^"]*">', named, html)
    page.toc = get_toc(nest_toc_tokens(tokens))
    return html


def with_mentions(html: str, page: Page, files: Files) -> str:
    """Numbers of notebooks in running text as links to them."""
    folders = ["nbs/", "zh/"] if page.file.src_uri.startswith(("zh/", "docs/zh/")) else ["nbs/"]  # the last one wins
    notebooks = {Path(file.src_uri).name.split("_")[0]: file for folder in folders for file in files
                 if file.src_uri.startswith(folder) and file.src_uri.endswith(".ipynb")}

    def number(match: re.Match) -> str:
        file = notebooks.get(match[0])
        return f'<a href="{file.url_relative_to(page.file)}">{match[0]}</a>' if file else match[0]

    def mention(match: re.Match) -> str:
        return re.sub(r"(?<!\d)\d\d[a-e]?(?!\w)", number, match[0])

    parts = APART.split(html)  # text, what stands apart, the name of its element, text, ...
    parts[::3] = [MENTION.sub(mention, text) for text in parts[::3]]
    return "".join(part for place, part in enumerate(parts) if place % 3 != 2)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page of the site from what the plugins made of it."""
    if page.file.src_uri.endswith(".ipynb"):
        html = with_contents(without_frame(html), page)
    return with_mentions(html, page, files)
