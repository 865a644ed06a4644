"""The pages of this repository, and the fenced blocks in them, for the tests that hold them to what they say.

The convention, by the language of a block: ``python`` and ``console`` are executed, in order, a page at a time;
``ini``, ``json``, ``toml`` and ``yaml`` are parsed; ``text`` is what something prints. There is no other.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Dict, List, NamedTuple

ROOT = Path(__file__).resolve().parents[3]

# Folders that sessions of nox make.
_MADE = {"build", "dist", "site"}

_FENCE = re.compile(r"^( *)```(.*?)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: what stands behind the opening fence.
        text: what is in it.
        line: the number of its first line in the file.
    """

    language: str
    text: str
    line: int

    @property
    def commands(self) -> List[str]:
        """The commands of a ``console`` block: what stands behind each prompt, with the lines that continue it."""
        found: List[str] = []
        goes_on = False
        for line in self.text.splitlines():
            if goes_on:
                found[-1] += f"\n{line}"
            elif line.startswith("$ "):
                found.append(line[2:])
            goes_on = line.endswith("\\") and bool(found)
        return found


def blocks(page: str) -> List[Block]:
    """Return the fenced blocks of a page, in order.

    Args:
        page: its path in the repository.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent, language, content = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(language, re.sub(f"^{indent}", "", content, flags=re.MULTILINE), line))
    return found


def pages() -> List[str]:
    """Return the paths of all pages: every Markdown file but what tools left behind."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".github" or (name[0] != "." and name not in _MADE)]
        found += [Path(folder, name).relative_to(ROOT).as_posix() for name in files if name.endswith(".md")]
    assert {"README.md", "packages/core/README.md", "docs/start.md"} <= set(found)
    return sorted(found)


def by_language(language: str) -> Dict[str, List[Block]]:
    """Return the blocks of a language by page, for pages that have any."""
    found = {page: [block for block in blocks(page) if block.language == language] for page in pages()}
    return {page: some for page, some in found.items() if some}
