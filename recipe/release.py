"""Whose repository it is, and whether a release may be tagged.

    python recipe/release.py owner NAME       # puts the owner's name where OWNER stands
    python recipe/release.py check v0.1.0     # says what is missing for the tag; status 1 if anything is

The addresses of the site, of the repository and of all that links to them follow from [project.urls] in pyproject.toml, which
the site and the tests read. Files into which nothing can be filled when they are read repeat the name, and are listed here.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACEHOLDER = "OWNER"
FILES = ("pyproject.toml", "CITATION.cff", "recipe/recipe.yaml", ".github/ISSUE_TEMPLATE/config.yml")


def put(owner: str, root: Path = ROOT) -> None:
    """Writes the owner's name into all files that name the repository."""
    if not re.fullmatch(r"[A-Za-z0-9](-?[A-Za-z0-9])*", owner) or owner == PLACEHOLDER:
        raise SystemExit(f"NAME must be the name of an account, got {owner!r}")
    for file in FILES:
        path = root / file
        text, count = re.subn(rf"\b{PLACEHOLDER}\b", owner, path.read_text())
        path.write_text(text)
        print(f"{file}: {count}")


def missing(tag: str, root: Path = ROOT) -> list[str]:
    """What must be done before the tag is pushed, a line each."""
    found = []
    for file in FILES:
        for number, line in enumerate((root / file).read_text().splitlines(), 1):
            if re.search(rf"\b{PLACEHOLDER}\b", line):
                found.append(
                    f"{file}:{number}: {PLACEHOLDER} stands for the owner: python recipe/release.py owner NAME"
                )
    headings = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = tag.removeprefix("v")
    if tag == version or not re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", version):
        found.append(f"the tag must be a version such as v1.2.3, got {tag!r}")
    heading = next((each for each in headings if re.match(rf"{re.escape(version)}\b", each)), None)
    if heading is None:
        found.append(f"CHANGELOG.md: no heading for {version}, found {', '.join(headings)}")
    elif "not released" in heading:
        found.append(f"CHANGELOG.md: {heading!r}: write the date")
    return found


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("owner", help="put the owner's name everywhere").add_argument("name")
    commands.add_parser("check", help="say what is missing for a release").add_argument("tag")
    arguments = parser.parse_args(argv)
    if arguments.command == "owner":
        put(arguments.name)
        return 0
    found = missing(arguments.tag)
    print(*found or [f"{arguments.tag} may be pushed"], sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
