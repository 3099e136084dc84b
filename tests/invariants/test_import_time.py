"""What a quick command must not pay for. Times vary from machine to machine; which modules are loaded does not."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = frozenset((
    "torch", "transformers", "tokenizers", "datasets", "pyarrow", "accelerate", "peft", "trl", "numpy", "pandas",
    "datasketch", "safetensors", "jinja2", "huggingface_hub",
))  # fmt: skip
"""Each takes a tenth of a second or more, or brings one of those along."""


def loaded(*arguments: str) -> set[str]:
    """Return the top-level modules that a Python process has loaded when it ends, told by ``-X importtime``."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_importing_the_package_loads_little_else() -> None:
    """0.03 s on two slow cores; the limit set for it is 0.3 s."""
    found = loaded("-c", "import windvane")
    assert "windvane" in found
    assert found.isdisjoint({*HEAVY, "pydantic", "typer", "rich", "yaml"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",), ("--version",), ("sso", "--help"), ("pairs", "--help"), ("select", "--help"), ("train", "--help"),
        ("evaluate", "--help"), ("queries", "augment", "--help"), ("models", "pull", "--help"), ("show", "--help"),
        ("doctor", "--help"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """0.4 s on two slow cores; the limit set for it is 1 s."""
    found = loaded("-m", "windvane", *arguments)
    assert "typer" in found
    assert found.isdisjoint(HEAVY)


def test_a_name_is_imported_when_it_is_first_used() -> None:
    assert "torch" in loaded("-c", "from windvane import PreferenceTrainer")


@pytest.mark.parametrize("command", ["sso", "pairs", "select", "train", "evaluate", "queries augment"])
def test_a_wrong_configuration_is_said_at_once(command: str, tmp_path: Path) -> None:
    """Below 1 s on two slow cores: no model is loaded, so nothing that models need is, either."""
    config = tmp_path / "wrong.yaml"
    config.write_text("no_such_key: 1\n", encoding="utf-8")
    script = "import sys; from windvane.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split(), str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "no_such_key is not a key" in done.stderr
    assert {name.partition(".")[0] for name in done.stdout.split()}.isdisjoint(HEAVY - {"jinja2", "safetensors"})
