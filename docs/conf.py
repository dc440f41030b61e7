"""The documentation site: `make docs` builds it, with every warning an error."""

from importlib.metadata import version as installed_version

project = "diffexp"
author = "the authors of diffexp"
project_copyright = "the authors of diffexp"
version = release = installed_version("diffexp")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
]
root_doc = "index"
exclude_patterns = ["_build", "results/*.py"]
source_suffix = {".md": "markdown"}
default_role = "code"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

smartquotes = False  # it turns the -- of options into dashes
html_theme = "furo"
html_title = "diffexp"
html_static_path = ["_static"]
html_css_files = ["style.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Keys", "params_style")]
copybutton_exclude = ".linenos, .gp, .go"
