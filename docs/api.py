"""A page for each public module: its docstrings as Markdown, and signatures as they stand in the file."""

import ast
import re
import shutil
import textwrap
from pathlib import Path

# in the order in which they are needed, as in use.md
MODULES = ["model", "llama", "checkpoint", "tokenizer", "generate", "vectors", "extract", "heads", "health", "steer"]
MODULES += ["interventions", "calibrate", "receipt", "sweep", "metrics", "formats", "pack"]


def documented(body, names=None):
    """The functions and classes that have a docstring: of these names, or all that do not begin with "_"."""
    found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)]
    return [node for node in found if (not node.name.startswith("_") if names is None else node.name in names)]


def members(source, package):
    """Those of a module, each with the text it stands in; with an `__all__`, also those from other modules."""
    body = ast.parse(source).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = set(ast.literal_eval(node.value))
            break
    else:
        return [(node, source) for node in documented(body)]
    found = [(node, source) for node in documented(body, names)]
    for node in body:
        taken = {alias.name for alias in node.names} & names if isinstance(node, ast.ImportFrom) else set()
        if taken:
            other = (package / f"{node.module.removeprefix('ministeer.')}.py").read_text(encoding="utf-8")
            found += [(one, other) for one in documented(ast.parse(other).body, taken)]
    return found


def signature(node, source):
    """What stands above the docstring; of a class also its fields and what it is made from."""
    lines = source.splitlines()
    head = lines[min(one.lineno for one in [node, *node.decorator_list]) - 1 : node.body[0].lineno - 1]
    for one in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(one, ast.AnnAssign):
            head += lines[one.lineno - 1 : one.end_lineno]
        elif isinstance(one, ast.FunctionDef) and one.name == "__init__":
            head += lines[one.lineno - 1 : one.body[0].lineno - 1]
    return textwrap.dedent("\n".join(head))


def words(node):
    """A docstring as Markdown, which it nearly is: a line that begins with an argument's name is an item of a list."""
    known = {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
    known |= {ast.unparse(one.target) for one in ast.walk(node) if isinstance(one, ast.AnnAssign)}

    def item(match):
        return f"- `{match[1]}`: " if set(match[1].split(", ")) <= known else match[0]

    return re.sub(r"(?m)^([a-z]\w*(?:, [a-z]\w*)*): ", item, ast.get_docstring(node))


def entry(node, source, level="##", of=""):
    text = f"{level} {of}{node.name}\n\n```python\n{signature(node, source)}\n```\n\n{words(node)}\n\n"
    methods = documented(node.body) if isinstance(node, ast.ClassDef) else []
    return text + "".join(entry(one, source, level + "#", f"{node.name}.") for one in methods)


def write(package: Path, pages: Path) -> None:
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    index = "# The library, from its docstrings\n\nIts modules, in the order in which they are needed.\n\n"
    for name in MODULES:
        source = (package / f"{name}.py").read_text(encoding="utf-8")
        said = ast.get_docstring(ast.parse(source))
        page = f"# {name}\n\n{said}\n\n" + "".join(entry(*one) for one in members(source, package))
        (pages / f"{name}.md").write_text(page, encoding="utf-8")
        index += f"- [{name}]({name}.md): {said.partition(chr(10))[0].removesuffix(':')}\n"
    tree = "\n".join(["```{toctree}", ":hidden:", "", *MODULES, "```"])
    (pages / "index.md").write_text(f"{index}\n{tree}\n", encoding="utf-8")
