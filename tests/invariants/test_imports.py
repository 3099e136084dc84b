"""Which module may import which, what stays out of a light import, and what stays out of the code altogether."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "windvane"
MODULES = sorted(PACKAGE.rglob("*.py"))

DIRECTION = (
    {"types", "errors", "seeds", "shares", "config", "data", "run"},
    {"engines"},
    {"principles", "queries", "sampling", "judging"},
    {"pairs", "preambles"},
    {"selection"},
    {"bootstrapping"},
    {"losses"},
    {"training"},
    {"evaluation", "reporting", "doctor", "prompt_search"},
    {"recipes"},
    {"cli"},
)
"""A module may import those of its own layer and of the layers before it."""

LIGHT = (
    "windvane",
    "windvane.config",
    "windvane.run",
    "windvane.types",
    "windvane.data",
    "windvane.judging",
    *(
        f"windvane.prompt_search.{name}"
        for name in (
            "demonstrations",
            "retrieval",
            "evaluator",
            "proposers",
            "guidelines",
            "racing",
            "paper",
            "replay",
            "proof",
        )
    ),
    *(f"windvane.engines.{name}" for name in ("server", "server_process", "journal", "budget", "talkers")),
    "windvane.cli",
    "windvane.losses",
    "windvane.selection",
    "windvane.reporting.search",
    "windvane.training.settings",
    *(
        f"windvane.recipes.{name}"
        for name in (
            "configs",
            "sso_config",
            "sso",
            "pairs",
            "select",
            "preference",
            "evaluate",
            "augment",
            "sera_config",
            "sera",
            "audit",
            "drpo_config",
            "drpo_plan",
            "drpo_stages",
            "drpo",
            "prompt",
            "roles",
        )
    ),
)
HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft")


def part(path: Path) -> str:
    """Return the first name below the package: ``run`` for ``windvane/run/files.py``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    """Return the position of a part in `DIRECTION`, or -1 if it has none yet."""
    return next((number for number, names in enumerate(DIRECTION) if name in names), -1)


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of every windvane module that is imported anywhere in a file, late or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "windvane")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "windvane":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def wrong_imports(name: str, tree: ast.AST) -> list[str]:
    """Return the imports of part `name` that point the wrong way."""
    targets = {
        module: module.split(".")[1] for module in imports(tree) if "." in module and module != "windvane.__version__"
    }
    return [f"{name} imports {module}" for module, target in targets.items() if layer(target) > layer(name)]


def identify(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_part_has_its_place() -> None:
    parts = {part(path) for path in MODULES} - {"__init__", "__main__"}
    assert {name for name in parts if layer(name) < 0} == set()


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_point_one_way(path: Path) -> None:
    if part(path) not in ("__init__", "__main__"):  # the package itself names its public parts, late
        assert wrong_imports(part(path), parsed(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_are_absolute(path: Path) -> None:
    assert [node.lineno for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom) and node.level] == []


def test_the_direction_test_can_fail() -> None:
    assert wrong_imports("pairs", ast.parse("from windvane.training import x")) == ["pairs imports windvane.training.x"]
    assert wrong_imports("run", ast.parse("def f():\n    import windvane.engines.local")) != []
    assert wrong_imports("training", ast.parse("from windvane import losses")) == []
    assert wrong_imports("losses", ast.parse("from windvane import recipes")) != []


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_import_stays_light(module: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} does not exist yet")
    code = f"import sys, {module}; print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def forbidden(tree: ast.AST) -> Iterator[str]:
    """Yield what a file holds that no file of ours may hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
            if any(
                name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal")
                for name in names
            ):
                yield f"line {node.lineno}: pickle or its like"
        elif isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            reraised = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in node.body)
            if caught in ("Exception", "everything") or (caught == "BaseException" and not reraised):
                yield f"line {node.lineno}: except {caught}"
        elif isinstance(node, ast.Call):
            yield from forbidden_call(node)


def forbidden_call(node: ast.Call) -> Iterator[str]:
    """Yield what a call asks for that no call of ours may ask for."""
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if keyword.arg == "trust_remote_code" and value is True:
            yield f"line {node.lineno}: trust_remote_code=True"
        if keyword.arg == "weights_only" and value is False:
            yield f"line {node.lineno}: weights_only=False"
    called = ast.unparse(node.func)
    if called in ("eval", "exec"):
        yield f"line {node.lineno}: {called}"
    if called == "torch.load" and not any(keyword.arg == "weights_only" for keyword in node.keywords):
        yield f"line {node.lineno}: torch.load without weights_only"


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_nothing_forbidden(path: Path) -> None:
    assert list(forbidden(parsed(path))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import dill as d",
        "try:\n    f()\nexcept Exception as e:\n    pass",
        "try:\n    f()\nexcept:\n    raise",
        "try:\n    f()\nexcept BaseException:\n    pass",
        "load(x, trust_remote_code=True)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "eval('1')",
    ],
)
def test_the_forbidden_is_found(code: str) -> None:
    assert len(list(forbidden(ast.parse(code)))) == 1


def test_the_allowed_is_allowed() -> None:
    code = (
        "try:\n    f()\nexcept BaseException:\n    close()\n    raise\n"
        "model.eval()\ntorch.load(x, weights_only=True)\nload(x, trust_remote_code=settings.trust_remote_code)"
    )
    assert list(forbidden(ast.parse(code))) == []
