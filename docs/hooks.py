"""What MkDocs calls while it builds the site: pages from elsewhere in the repository, and the generated reference.

Whatever a page links to is part of the site, at the place that it has in the repository: READMEs and the like as pages,
so that nothing is written twice, other files (an example, the license) as they are. The repository's README is the home
page, and where all links begin. Markdown in the repository links as its folders are, which works wherever it is shown;
here such a link is turned into one within the site.

Whatever a link names has to exist: the build is strict, and a target that is unknown here is left for it to complain.
"""

from __future__ import annotations

import os
import posixpath
import re
import runpy
from pathlib import Path
from typing import Any, Dict, Iterator, Match

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

# The home page, in the repository and in the site.
_README, _HOME = "README.md", "index.md"

_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)((?:#[^)\s]*)?\))")

# What is put in the place of a mark on a page.
_OPTIONS = "<!-- options -->"
_RESULTS = "<!-- results -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to and does not lie in docs/, and what that links to."""
    files.append(File.generated(config, _HOME, abs_src_path=str(ROOT / _README)))
    unread = [file for file in files if file.is_documentation_page()]
    while unread:
        page = unread.pop()
        for target in _targets(_place(page.src_uri), Path(str(page.abs_src_path)).read_text(encoding="utf-8")):
            if _uri(target) not in files.src_uris and (ROOT / target).is_file():
                # The menu names those pages that belong into it.
                path, level = str(ROOT / target), InclusionLevel.NOT_IN_NAV
                file = File.generated(config, _uri(target), abs_src_path=path, inclusion=level)
                files.append(file)
                if file.is_documentation_page():
                    unread.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site, and generate what is to be generated."""
    uri = page.file.src_uri
    for mark, make in ((_OPTIONS, _options), (_RESULTS, _results)):
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    folder = posixpath.dirname(uri) or "."

    def rewrite(link: Match[str]) -> str:
        target = _uri(_resolve(_place(uri), link[2]))
        return f"{link[1]}{posixpath.relpath(target, folder)}{link[3]}"

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out the mark with which docstrings introduce code: Markdown knows it by its indentation."""
    return html.replace("<p>::</p>", "")


def _place(uri: str) -> str:
    """Return where in the repository a page lies."""
    if uri == _HOME:
        return _README
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def _resolve(place: str, target: str) -> str:
    """Return the path in the repository that a link on a page names; a folder stands for its README."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def _uri(path: str) -> str:
    """Return the place in the site of a file of the repository."""
    if path.startswith("docs/"):
        return path[len("docs/") :]
    return _HOME if path == _README else path


def _targets(place: str, markdown: str) -> Iterator[str]:
    """Yield the paths in the repository that a page links to."""
    for part in _FENCE.split(markdown)[::2]:
        for link in _LINK.finditer(part):
            yield _resolve(place, link[2])


def _options() -> str:
    """Return the reference of the options of ``[vineyard]``, from the provider's metadata."""
    # Run and not imported: the metadata need neither Airflow nor an installed provider.
    source = ROOT / "packages/provider/src/airflow_provider_vineyard/get_provider_info.py"
    (section,) = runpy.run_path(os.fspath(source))["get_provider_info"]()["config"].items()
    name, content = section
    return "\n".join(_option(name, option, content["options"][option]) for option in content["options"])


def _option(section: str, name: str, option: Dict[str, Any]) -> str:
    default = f"`{option['default']}`" if option["default"] else "empty"
    return f"""## {name}

{option["description"]}

- type: {option["type"]}, default: {default}, since {option["version_added"]}
- example: `{option["example"]}`
- in the environment: `AIRFLOW__{section.upper()}__{name.upper()}`
"""


def _results() -> str:
    """Return the tables and plots that ``nox -s bench`` left, without the page's own beginning."""
    page = ROOT / "docs/benchmarks/results.md"
    if not page.exists():
        return "*No figures have been taken yet.*"
    _, heading, sections = page.read_text(encoding="utf-8").partition("\n## ")
    return _LINK.sub(r"\1benchmarks/\2\3", heading + sections)
