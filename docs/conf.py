"""The site of these pages.

pip install -e '.[docs]'
sphinx-build -W docs build/docs     # warnings, among them links that lead nowhere, are errors
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "jepa_jax"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

myst_heading_anchors = 3  # links to headings, as on GitHub

html_theme = "furo"
html_title = "jepa_jax"
html_show_copyright = False
html_show_sourcelink = False

default_role = "literal"  # `name` in docstrings is code, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def _code_of_modules(app, what, name, obj, options, lines):
    """What a module's docstring indents is code; reStructuredText wants to be told."""
    if what == "module":
        starts = [i for i, line in enumerate(lines) if line[:4] == "    " and not lines[i - 1]]
        for i in reversed(starts):
            lines[i:i] = ["::", ""]


def setup(app):
    app.connect("autodoc-process-docstring", _code_of_modules)
