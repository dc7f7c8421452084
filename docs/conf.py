"""The site that `make docs` builds of the README, docs/, the lessons, the docstrings and the recorded reports."""

import logging
import os
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import api

project = html_title = "ministeer"
root_doc = "README"
extensions = ["myst_nb"]
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "docs/course/[1-9]_*.py"]
include_patterns += ["benchmarks/*.md", "weights/nano/*.md", "ministeer/lab/data/README.md"]
exclude_patterns = ["build", "dist", "results", ".*"]

myst_heading_anchors = 4
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"  # a minute; a cache would keep what an older library said
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_ipywidgets_js = {}  # nothing is loaded from elsewhere
logging.getLogger("traitlets").setLevel(logging.WARNING)  # a package of the theme's prints all of it

smartquotes = False  # some quotes are code
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_use_index = html_copy_source = html_show_copyright = html_show_sphinx = False


def read(app, docname, source):
    """The README gets the table of contents, docs/contents.txt; a summary, written for a terminal, keeps its lines."""
    if docname == root_doc:
        source[0] += (app.srcdir / "docs" / "contents.txt").read_text(encoding="utf-8")
    elif docname.endswith("/summary"):
        source[0] = source[0].replace("\n  ", "\\\n  ")


def open_files(app, doctree):
    """A link to a file that is no page opens a copy of it, which MyST would download; a folder is only named."""
    for link in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        name = link["reftarget"]
        # as lessons are pages, MyST takes every .py for one, and names it without its end
        relative, path = app.env.relfn2path(f"/{name}.py" if link["refdomain"] == "doc" else name)
        if Path(path).is_dir():
            link.replace_self(link.children)
        elif Path(path).is_file() and name not in app.env.found_docs:
            relative += ".txt" if relative.endswith(".py") else ""  # so that every browser shows it
            copy = app.outdir / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            uri = os.path.relpath(relative, Path(app.env.docname).parent)
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def setup(app):
    api.write(HERE.parent / "ministeer", app.srcdir / "docs" / "api")
    app.connect("source-read", read)
    app.connect("doctree-read", open_files, priority=1)  # before Sphinx collects what is to be downloaded
