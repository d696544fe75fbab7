"""What is written about the package in more than one place, and what its page shows: these rot unseen."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "README.md").exists():
    pytest.skip("beside a wheel there is no repository", allow_module_level=True)

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
release = importlib.import_module("recipe.release")
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _page() -> str:
    """The README as scikit-build-core and hatch-fancy-pypi-readme put it into the metadata."""
    text = (ROOT / "README.md").read_text()
    for each in PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    return text


def test_links_and_pictures_of_the_package_page_are_absolute() -> None:
    source = PYPROJECT["project"]["urls"]["Source"]
    raw = source.replace("//github.com/", "//raw.githubusercontent.com/") + "/HEAD/"
    before, after = (LINK.findall(text) for text in ((ROOT / "README.md").read_text(), _page()))
    assert len(before) == len(after) > 20
    relative = 0
    for old, new in zip(before, after, strict=True):
        if old.startswith(("https://", "#")):
            assert new == old
            continue
        relative += 1
        assert (ROOT / old).exists(), old
        picture = old.endswith((".gif", ".png", ".svg"))
        assert new == (raw if picture else f"{source}/blob/HEAD/") + old
    assert relative > 15


def test_one_repository_is_named_everywhere() -> None:
    """Whoever publishes runs `make owner`; nobody else's repository is named by mistake."""
    urls = PYPROJECT["project"]["urls"]
    owner = re.fullmatch(r"https://github\.com/([\w-]+)/made_fast", urls["Source"])
    assert owner is not None
    assert urls["Documentation"] == f"https://{owner[1]}.github.io/made_fast/"
    for file in release.FILES:
        path = ROOT / file
        if path.exists():  # an sdist has not all of them
            named = re.findall(r"github(?:usercontent)?\.com/([\w-]+)/made_fast", path.read_text())
            assert set(named) == {owner[1]}, file


def test_a_release_waits_for_the_owner_and_the_changelog(tmp_path: Path) -> None:
    for file in (*release.FILES, "CHANGELOG.md"):
        if not (ROOT / file).exists():
            pytest.skip(f"an sdist has no {file}")
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / file).read_text()
        (tmp_path / file).write_text(re.sub(r"(github(?:usercontent)?\.com/)[\w-]+(/made_fast)", r"\1OWNER\2", text))
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 9.9.0, not released\n\n## 9.8.0, 2026-12-01\n")
    found = release.missing("v9.8.0", tmp_path)
    assert {line.split(":")[0] for line in found} == set(release.FILES)
    with pytest.raises(SystemExit, match="NAME"):
        release.put("OWNER", tmp_path)
    release.put("somebody", tmp_path)
    assert release.missing("v9.8.0", tmp_path) == []
    assert not any("OWNER" in (tmp_path / file).read_text() for file in release.FILES)
    assert ["not released" in line for line in release.missing("v9.9.0", tmp_path)] == [True]
    assert "no heading" in release.missing("v9.7.0", tmp_path)[0]
    assert "version" in release.missing("9.8.0", tmp_path)[0]


def test_hooks_and_groups_have_the_versions_that_are_tested() -> None:
    hooks = re.findall(r"\[([\w-]+)==([\d.]+)\]", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(hooks) == 3
    for name, version in hooks:
        assert version == PINS[name]
    for group, requirements in PYPROJECT["dependency-groups"].items():
        if group in {"test", "docs", "lint", "peers"}:
            plain = [re.match(r"[\w-]+", each)[0] for each in requirements if isinstance(each, str)]  # type: ignore[index]
            assert [name for name in plain if name not in PINS] == [], f"not pinned in constraints.txt, of {group}"


def test_the_recipe_asks_for_what_the_package_asks_for() -> None:
    recipe = (ROOT / "recipe" / "recipe.yaml").read_text()
    for requirement in PYPROJECT["project"]["dependencies"]:
        name, floor = requirement.split(">=")
        assert f"    - {name.replace('torch', 'pytorch')} >={floor}\n" in recipe
    for requirement in PYPROJECT["build-system"]["requires"]:
        if "platform_system" not in requirement:
            assert f"    - {requirement.replace('>=', ' >=')}\n" in recipe


def test_wheels_leave_openmp_to_torch_and_cannot_do_without() -> None:
    wheels: dict[str, Any] = PYPROJECT["tool"]["cibuildwheel"]
    assert "--exclude libgomp.so.1" in wheels["linux"]["repair-wheel-command"]
    assert "--exclude libomp.dylib" in wheels["macos"]["repair-wheel-command"]
    assert "--exclude libiomp5md.dll" in wheels["windows"]["repair-wheel-command"]
    assert wheels["config-settings"] == {"cmake.define.MADE_FAST_REQUIRE_OPENMP": "ON"}
    pythons = {f"cp{each[-4:].replace('.', '')}-*" for each in PYPROJECT["project"]["classifiers"] if ":: 3." in each}
    assert set(wheels["build"].split()) == pythons


def test_the_version_is_that_of_the_tag() -> None:
    assert "version" in PYPROJECT["project"]["dynamic"]
    tags = subprocess.run(["git", "tag", "--list", "v*"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    headings = re.findall(r"^## (\S+?),?(?: |$)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    for tag in tags.split():
        assert tag[1:] in headings, f"{tag} has no heading in CHANGELOG.md"
