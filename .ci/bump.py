"""Write a release number wherever one stands: ``python .ci/bump.py 1.0.0``, or of the repository in another folder.

The three distributions carry the same number, each in a module of its own, because none of them can read another's when
it is installed alone; and the provider asks for the core of its own release. ``nox -s build`` fails if they differ.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_NUMBER = r"\d+\.\d+\.\d+(?:(?:a|b|rc|\.dev|\.post)\d+)?"

# Where it stands: files of the repository, and what stands around it.
_PLACES = {
    "packages/*/src/*/_version.py": rf'(?<=__version__ = "){_NUMBER}(?=")',
    "packages/provider/pyproject.toml": rf'(?<="vineyard-client\[server\]~=){_NUMBER}(?=")',
}


def main() -> None:
    """Change the number, and say where."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] if __doc__ else None)
    parser.add_argument("number", help="such as 1.0.0 or 1.1.0.dev0")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    arguments = parser.parse_args()
    if not re.fullmatch(_NUMBER, arguments.number):
        parser.error(f"{arguments.number!r} is no release number")
    for pattern, place in _PLACES.items():
        for path in sorted(arguments.folder.glob(pattern)):
            text, count = re.subn(place, arguments.number, path.read_text(encoding="utf-8"))
            if count != 1:
                raise SystemExit(f"{path}: the number should stand here once, not {count} times")
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(arguments.folder))


if __name__ == "__main__":
    main()
