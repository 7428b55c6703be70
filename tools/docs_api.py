"""Pages about the functions of the package, read from its source: signatures with their comments, and docstrings."""

import ast
import re
from pathlib import Path

LONGEST = 12  # lines of a constant that are shown


def public_names(
    tree: ast.Module,  # of a module
) -> list[str]:
    """The names that a module exports."""
    return next(
        (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
         and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"), [],
    )  # fmt: skip


def notebook_of(
    source: str,  # of a module
) -> str:
    """The file name of the notebook that a module is exported from."""
    return re.search(r"File to edit: \.\./nbs/(\S+\.ipynb)", source)[1]


def prose(
    text: str | None,  # a docstring
) -> str:
    """A docstring as Markdown, in which only code between backticks is marked."""
    parts = re.split(r"(`[^`]*`)", " ".join((text or "").split()))
    marked = [part if part.startswith("`") else re.sub(r"([\\*_<\[\]$#|])", r"\\\1", part) for part in parts]
    return "".join(marked).replace(r"\<", "&lt;")


def block(
    lines: list[str],  # of source
) -> str:
    """Source as a block of code, moved to the left margin."""
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(["``` { .python .signature }", *(line[margin:] for line in lines), "```"])


def header(
    node: ast.FunctionDef | ast.ClassDef,
    lines: list[str],  # of the module
) -> list[str]:
    """The lines from decorators or `def` to the colon, with the comments beside the parameters."""
    first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
    return lines[first - 1 : node.body[0].lineno - 1]


def function_text(
    node: ast.FunctionDef,
    lines: list[str],  # of the module
    level: str = "##",  # of the heading
    owner: str = "",  # the class of a method
) -> str:
    """Heading, signature and docstring of a function or a method."""
    name = f"{owner}.{node.name}" if owner else node.name
    code = block(header(node, lines))
    return f"{level} `{name}` {{ #{name} }}\n\n{code}\n\n{prose(ast.get_docstring(node))}\n"


def class_text(
    node: ast.ClassDef,
    lines: list[str],  # of the module
) -> str:
    """Heading, fields, docstring and public methods of a class."""
    shown = header(node, lines)
    for item in node.body:
        if isinstance(item, (ast.Assign, ast.AnnAssign)):
            shown += lines[item.lineno - 1 : item.end_lineno]
    text = f"## `{node.name}` {{ #{node.name} }}\n\n{block(shown)}\n\n{prose(ast.get_docstring(node))}\n"
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
    return "\n".join([text, *(function_text(item, lines, "###", node.name) for item in methods)])


def constant_text(
    node: ast.Assign | ast.AnnAssign,
    names: list[str],  # those of the assignment that are exported
    lines: list[str],  # of the module
) -> str:
    """Heading and the first lines of an assignment."""
    shown = lines[node.lineno - 1 : node.end_lineno]
    shown = shown if len(shown) <= LONGEST else [*shown[:LONGEST], "    ..."]
    anchors = "".join(f'<a id="{name}"></a>' for name in names[1:])
    title = ", ".join(f"`{name}`" for name in names)
    return f"## {title} {{ #{names[0]} }}\n\n{anchors}\n\n{block(shown)}\n"


def assigned(
    node: ast.stmt,
) -> list[str]:
    """The names that a statement gives values to."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [item.id for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)]


def module_page(
    path: Path,  # of a module
) -> str:
    """Everything that a module exports, as Markdown."""
    source = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    public, notebook = public_names(tree), notebook_of(source)
    number = notebook.split("_")[0]
    parts = [f"# {path.stem}\n\n{prose(ast.get_docstring(tree))}\n\nExplained and tested in "
             f"[notebook {number}](../nbs/{notebook}).\n"]  # fmt: skip
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in public:
            parts.append(function_text(node, lines))
        elif isinstance(node, ast.ClassDef) and node.name in public:
            parts.append(class_text(node, lines))
        elif names := [name for name in assigned(node) if name in public]:
            parts.append(constant_text(node, names, lines))
    return "\n".join(parts)


def api_pages(
    package: Path,  # its folder
) -> dict[str, str]:
    """Name of a page to its Markdown: an index, and a page for each module in the order of the notebooks."""
    paths = [path for path in package.glob("*.py") if not path.stem.startswith("_")]
    paths.sort(key=lambda path: notebook_of(path.read_text(encoding="utf-8")))
    index = ["# Functions", "", "All that the package exports, module by module, in the order of the notebooks.", "",
             "| module | what it is for | notebook |", "|---|---|---|"]  # fmt: skip
    for path in paths:
        source = path.read_text(encoding="utf-8")
        notebook = notebook_of(source)
        about = prose(ast.get_docstring(ast.parse(source)))
        index.append(f"| [{path.stem}]({path.stem}.md) | {about} | [{notebook.split('_')[0]}](../nbs/{notebook}) |")
    return {"index": "\n".join(index)} | {path.stem: module_page(path) for path in paths}
