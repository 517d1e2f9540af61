"""Sphinx settings of the documentation. `make docs` builds it."""

import re
from importlib.metadata import version as version_of

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "Conditional DETR"
author = "The Conditional DETR developers"
version = release = version_of("conditional-detr")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "code"

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = False
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "Conditional DETR"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False


def _visit_math(self, node) -> None:
    """MathML, which browsers show without a script."""
    self.body.append(tex2mathml(node.astext(), as_block=node.tagname == "math_block"))
    raise nodes.SkipNode


def _split_descriptions(app, what, name, obj, options, lines: list[str]) -> None:
    """Turn our `name : description` into the form of numpydoc: the name, and its description indented below it."""
    in_list, result = False, []
    for number, line in enumerate(lines):
        if set(line) == {"-"} and number:
            in_list = lines[number - 1] in ("Parameters", "Attributes", "Raises")
        entry = re.match(r"(\w+(?:, \w+)*) : (.+)", line) if in_list else None
        result += [entry[1], f"    {entry[2]}"] if entry else [line]
    lines[:] = result


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _split_descriptions, priority=100)  # before napoleon
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math, None))


html_math_renderer = "mathml"
