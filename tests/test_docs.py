"""The documentation says what is so: generated pages are fresh, tests and names in it exist, links lead somewhere."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from windvane.losses import LossSettings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEST_ID = re.compile(r"tests/[\w/]+\.py(?:::\w+)+")
NAME = re.compile(r"`(windvane(?:\.\w+)+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh(generate: ModuleType) -> None:
    assert generate.stale() == [], "run `make docs`"


def test_a_stale_or_missing_page_is_found(generate: ModuleType, tmp_path: Path) -> None:
    generate.write(tmp_path)
    assert generate.stale(tmp_path) == []
    page = tmp_path / "config.md"
    page.write_text(page.read_text(encoding="utf-8").replace("`5e-7`", "`5e-6`"), encoding="utf-8")
    (tmp_path / "cli.md").unlink()
    assert generate.stale(tmp_path) == ["config.md", "cli.md"]


def test_the_command_reference_has_every_command(generate: ModuleType) -> None:
    page = generate.cli_page()
    for command in ("sso", "pairs", "select", "train", "evaluate", "queries augment", "models pull", "doctor", "show"):
        assert f"## windvane {command}\n" in page


def names_in(file: Path) -> set[str]:
    """Return the tests of a file as pytest names them, without parameters: ``test_a``, ``TestB::test_c``."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found.update(f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef))
    return found


def missing_tests(text: str) -> list[str]:
    missing = []
    for test in sorted(set(TEST_ID.findall(text))):
        file, _, name = test.partition("::")
        if not (ROOT / file).is_file() or name not in names_in(ROOT / file):
            missing.append(test)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    assert missing_tests(page.read_text(encoding="utf-8")) == []


def test_a_test_that_does_not_exist_is_found() -> None:
    wrong = (
        "tests/test_docs.py::test_no_such",
        "tests/no_such.py::test_a",
        "tests/test_queries.py::TestReading::test_no",
    )
    assert missing_tests(" ".join([*wrong, "tests/test_docs.py::test_generated_pages_are_fresh"])) == sorted(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_library_exist(page: Path) -> None:
    for name in sorted(set(NAME.findall(page.read_text(encoding="utf-8")))):
        assert exists(name), f"{page.name} names {name}"


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part) and part not in getattr(found, "model_fields", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_loss_stands_in_papers() -> None:
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    union = get_args(LossSettings)[0]
    types = [get_args(member.model_fields["type"].annotation)[0] for member in get_args(union)]
    assert len(types) == 11
    assert [kind for kind in types if f"`{kind}`" not in page] == []


def test_every_trap_has_its_line() -> None:
    page = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8")
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(range(1, 47))
