"""Configuration: what is read, what is refused and in which words, what is written."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError, model_validator

from windvane.config import Settings, differences, load_config, markdown_table, to_yaml
from windvane.data import DataSource
from windvane.errors import ConfigError


class Ipo(Settings):
    type: Literal["ipo"] = "ipo"
    beta: float = Field(0.1, gt=0)
    """Regularisation, per nat."""


class Simpo(Settings):
    type: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0)
    """Scale of the margin."""
    gamma: float = 0.5
    """Target margin."""


class Lora(Settings):
    rank: int = Field(8, ge=1, le=256)
    """Rank of the update."""
    alpha: float = 16
    """Scale of the update."""


class Training(Settings):
    learning_rate: float = Field(5e-7, gt=0)
    """Peak learning rate | per step."""
    epochs: int = Field(1, ge=1)
    """Passes over the pairs."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay."""
    gradient_checkpointing: bool = False
    """Recompute activations to save memory."""
    lora: Lora | None = None
    """Train an adapter only."""
    save_every: int | None = None
    """Optimizer steps between checkpoints."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.save_every is not None and self.gradient_checkpointing:
            raise ValueError(f"save_every ({self.save_every}) cannot go with gradient_checkpointing; set one of them.")
        return self


class Config(Settings):
    model: str
    """Folder or hub name of the model."""
    queries: DataSource
    """Queries to answer."""
    output_dir: Path = Path("runs/x")
    """Run directory."""
    loss: Annotated[Ipo | Simpo, Field(discriminator="type")] = Ipo(beta=0.2)
    """Preference loss."""
    training: Training = Training(epochs=2)
    """How the policy is trained."""
    threshold: float | Literal["mean"] = "mean"
    """Of the filter."""
    tags: tuple[str, ...] = ()
    """Labels."""
    seed: int = 0
    """Of every random choice."""


BASE = "model: tiny\nqueries: q.jsonl\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "c.yaml") -> Path:
        Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
        return Path(name)

    return write


# ------------------------------------------------------------------------------------------------ what is read


def test_defaults_file_and_overrides_are_laid_over_each_other(write):
    path = write(BASE + "training:\n  learning_rate: 1e-5\n  betas: [0.8, 1]\ntags: [a, 'no', no, on, 1:30]\n")
    config = load_config(Config, path, ["training.lora.rank=4", "output_dir=runs/mine", "seed = 3"])
    assert config.training.learning_rate == 1e-5
    assert config.training.betas == (0.8, 1.0)
    assert config.training.lora == Lora(rank=4)
    assert config.tags == ("a", "no", "no", "on", "1:30")
    assert (config.output_dir, config.seed, config.queries) == (Path("runs/mine"), 3, DataSource(path="q.jsonl"))


def test_a_group_given_in_part_keeps_the_default_of_its_field(write):
    config = load_config(Config, write(BASE + "training: {learning_rate: 1e-6}\n"), ["loss.beta=0.3"])
    assert config.training.epochs == 2  # of Config.training, not of Training
    assert config.loss == Ipo(beta=0.3)


def test_another_member_of_a_union_takes_nothing_over(write):
    config = load_config(Config, write(BASE), ["loss.type=simpo"])
    assert config.loss == Simpo()
    assert load_config(Config, str(write(BASE)), ["loss={type: simpo, gamma: 1}"]).loss == Simpo(gamma=1)


def test_python_callers_get_the_same_completion():
    assert Config(model="m", queries="q", training={"learning_rate": 1e-6}).training.epochs == 2


def test_the_last_override_wins_and_null_unsets(write):
    config = load_config(Config, write(BASE + "training: {lora: {rank: 2}}\n"), ["seed=1", "seed=2", "training.lora="])
    assert (config.seed, config.training.lora) == (2, None)


def test_an_override_opens_a_group_that_a_string_stands_for(write):
    config = load_config(Config, write(BASE), ["queries.split=test", "queries.bad_rows=drop"])
    assert config.queries == DataSource(path="q.jsonl", split="test", bad_rows="drop")


def test_no_file_at_all():
    assert load_config(Config, None, ["model=m", "queries=q"]).seed == 0


def test_yaml_anchors_merge_keys_bom_and_comments(write):
    text = "\ufeff# mine\nmodel: m\nqueries: q\ntraining: &t {epochs: 3}\nloss:\n  <<: {type: simpo}\n  beta: 1\n"
    config = load_config(Config, write(text))
    assert (config.training.epochs, config.loss) == (3, Simpo(beta=1))


def test_settings_are_frozen_and_records_inside_them_stay_lenient():
    class Plain(BaseModel):
        number: int

    class Holder(Settings):
        plain: Plain

    assert Holder(plain={"number": "3"}).plain.number == 3
    with pytest.raises(ValidationError, match="frozen"):
        Lora().rank = 3


# ------------------------------------------------------------------------------------------------ what is refused

WRONG = {
    "unknown key": (
        BASE + "trainig: {epochs: 1}\n",
        [],
        "c.yaml, line 3: trainig is not a key; did you mean training?",
    ),
    "unknown nested key": (
        BASE + "training:\n  epochs: 1\n  learning_rat: 1\n",
        [],
        "c.yaml, line 5: training.learning_rat is not a key; did you mean training.learning_rate?",
    ),
    "key of another group": (
        BASE + "rank: 4\n",
        [],
        "c.yaml, line 3: rank is not a key; did you mean training.lora.rank?",
    ),
    "key of both members of a union elsewhere": (
        BASE + "beta: 4\n",
        [],
        "c.yaml, line 3: beta is not a key; did you mean loss.beta?",
    ),
    "key like no other": (
        BASE + "training:\n  lora:\n    zzz: 4\n",
        [],
        "c.yaml, line 5: training.lora.zzz is not a key; the keys of training.lora are rank, alpha",
    ),
    "key of another loss": (
        BASE + "loss: {type: ipo, gamma: 0.5}\n",
        [],
        "c.yaml, line 3: loss.gamma is not a key; the keys of loss (ipo) are type, beta.",
    ),
    "whole number as text": (BASE + "seed: '3'\n", [], "c.yaml, line 3: seed must be a whole number, not '3'."),
    "word for a number": (BASE + "seed: three\n", [], "c.yaml, line 3: seed must be a whole number, not 'three'."),
    "fraction for a whole number": (BASE + "seed: 1.5\n", [], "seed must be a whole number, not 1.5."),
    "true for a whole number": (BASE + "seed: true\n", [], "seed must be a whole number, not true."),
    "1 for true": (BASE, ["training.gradient_checkpointing=1"], "must be true or false, not 1."),
    "yes for true": (BASE, ["training.gradient_checkpointing=yes"], "must be true or false, not 'yes'."),
    "number for text": (BASE + "tags: [a, 3]\n", [], "c.yaml, line 3: tags[1] must be text, not 3."),
    "null for text": ("model:\nqueries: q\n", [], "c.yaml, line 1: model must be text, not null."),
    "number for a path": (BASE + "output_dir: 3\n", [], "output_dir must be a path, not 3."),
    "not a number": (BASE, ["training.learning_rate=fast"], "training.learning_rate must be a number, not 'fast'."),
    "too small": (BASE, ["training.learning_rate=0"], "training.learning_rate must be greater than 0, not 0."),
    "too large": (BASE + "training: {lora: {rank: 999}}\n", [], "training.lora.rank must be at most 256, not 999."),
    "below the least": (
        BASE,
        ["training.epochs=-1"],
        "--set training.epochs=-1: training.epochs must be at least 1, not -1.",
    ),
    "unknown word": (
        BASE + "training: {schedule: cosin}\n",
        [],
        "training.schedule must be one of cosine, linear, constant, not 'cosin'; did you mean cosine?",
    ),
    "unknown loss": (
        BASE + "loss: {type: ipoo}\n",
        [],
        "loss.type must be one of ipo, simpo, not 'ipoo'; did you mean ipo?",
    ),
    "loss as a word": (BASE + "loss: ipo\n", [], "c.yaml, line 3: loss must be a group of keys, not 'ipo'."),
    "neither of two": (BASE + "threshold: men\n", [], "threshold must be a number or mean, not 'men'."),
    "group as a number": (BASE + "training: 5\n", [], "c.yaml, line 3: training must be a group of keys, not 5."),
    "too few items": (BASE + "training: {betas: [0.9]}\n", [], "c.yaml, line 3: training.betas[1] is missing"),
    "empty path": (BASE, ["queries="], "--set queries=: queries must be a group of keys, not null."),
    "two that do not go together": (
        BASE + "training: {save_every: 5, gradient_checkpointing: true}\n",
        [],
        "c.yaml, line 3: training: save_every (5) cannot go with gradient_checkpointing; set one of them.",
    ),
    "missing": ("queries: q\n", [], "c.yaml: model is missing (Folder or hub name of the model); set it in the file"),
    "empty file": ("", ["model=m"], "c.yaml: queries is missing (Queries to answer)"),
    "key that stands twice": (
        BASE + "seed: 1\nseed: 2\n",
        [],
        "c.yaml, line 4: seed is set a second time (first on line 3)",
    ),
    "nested key twice": (
        BASE + "training:\n  epochs: 1\n  epochs: 1\n",
        [],
        "c.yaml, line 5: training.epochs is set a second time (first on line 4); remove one.",
    ),
    "tab": (
        BASE + "training:\n\tepochs: 1\n",
        [],
        "c.yaml, line 4 is indented with a tab, which YAML does not allow; use spaces.",
    ),
    "colon in text": (
        "model: a: b\n",
        [],
        "c.yaml, line 1, column 9: not valid YAML (mapping values are not allowed here)",
    ),
    "open bracket": (BASE + "tags: [a, b\n", [], "c.yaml, line 4, column 1: not valid YAML"),
    "two documents": ("model: m\n---\nqueries: q\n", [], "c.yaml, line 2, column 1: not valid YAML"),
    "Python object": ("model: !!python/name:os.system\n", [], "could not determine a constructor for the tag"),
    "control character": ("model: a\0b\n", [], "c.yaml cannot be read as YAML: "),
    "a list": ("- model: m\n", [], "c.yaml holds a list; a configuration is a group of keys such as 'seed: 0'."),
    "a word": ("model\n", [], "c.yaml holds 'model'; a configuration is a group of keys"),
    "a number as key": (BASE + "3: x\n", [], "c.yaml, line 3: the key 3 is not text; correct or quote it."),
    "Latin-1": ("model: caf\xe9\n".encode("latin-1"), [], "c.yaml is not UTF-8 text"),
    "its own anchor": (
        BASE + "tags: &a [*a]\n",
        [],
        "c.yaml, line 3: tags[0] is an alias inside its own anchor; write it out.",
    ),
    "override without =": (BASE, ["seed"], "--set seed: an override has the form key=value"),
    "override without key": (BASE, ["=3"], "--set =3: an override has the form key=value"),
    "override with a hole": (BASE, ["training..epochs=3"], "--set training..epochs=3: an override has the form"),
    "override of an unknown key": (
        BASE,
        ["training.lr=1"],
        "--set training.lr=1: training.lr is not a key; did you mean training.learning_rate?",
    ),
    "override into a scalar": (
        BASE,
        ["model.name=x"],
        "--set model.name=x: model is 'tiny' (c.yaml, line 1) and has no keys inside; set it as a whole with --set",
    ),
    "override into an override": (
        BASE,
        ["seed=3", "seed.x=1"],
        "--set seed.x=1: seed is 3 (--set seed=3) and has no keys inside",
    ),
    "override that is no YAML": (BASE, ["tags=[a"], "--set tags=[a, line 1, column 3: not valid YAML"),
}


@pytest.mark.parametrize(("text", "overrides", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_named_with_its_place_and_the_way_out(write, text, overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(Config, write(text), overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_all_problems_come_at_once_each_with_its_place(write):
    with pytest.raises(ConfigError) as caught:
        load_config(Config, write(BASE + "sed: 3\ntraining:\n  epochs: zero\n"), ["loss.beta=-1"])
    assert str(caught.value).splitlines() == [
        "the configuration has 3 problems:",
        "  --set loss.beta=-1: loss.beta must be greater than 0, not -1.",
        "  c.yaml, line 5: training.epochs must be a whole number, not 'zero'.",
        "  c.yaml, line 3: sed is not a key; did you mean seed?",
    ]


class Shares(Settings):
    by_source: bool | dict[str, Annotated[float, Field(gt=0)]] = False
    names: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)
    urls: Literal["none"] | tuple[str, ...] = "none"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("by_source: {a: 0}", ["by_source.a must be greater than 0, not 0."]),
        (
            "by_source: {a: 0, b: x}",
            ["by_source.a must be greater than 0, not 0.", "by_source.b must be a number, not 'x'."],
        ),
        ("urls: [a, 1]", ["urls[1] must be text, not 1."]),
        ("names: [x]", ["names[0] must be a whole number, not 'x'."]),
        ("by_source: 3", ["by_source must be true or false or a group of keys, not 3."]),
        ("urls: some", ["urls must be none or a list, not 'some'."]),
    ],
)
def test_what_is_wrong_inside_a_member_of_a_union_is_one_problem(write, text, wrong):
    """Not of the union's other type is only what is of neither; and no list is empty because an element is wrong."""
    with pytest.raises(ConfigError) as caught:
        load_config(Shares, write(text))
    lines = [line for line in str(caught.value).splitlines() if "problems:" not in line]
    assert [line.partition(": ")[2] for line in lines] == wrong


class Other(Settings):
    model: str
    policy: str
    loss: Annotated[Ipo | Simpo, Field(discriminator="type")] = Ipo()


def hint(text: str) -> str:
    """Return what is said after the problems themselves of a file for another command, or of a wrong one."""
    Path("c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(Config, "c.yaml", commands=lambda: {"one": Config, "two": Other, "three": Lora})
    return "".join(line for line in str(caught.value).splitlines() if line.startswith("It looks"))


@pytest.mark.parametrize("more", ["", "loss: {type: simpo}\n", "loss: {type: simpo, beta: much}\n"])
def test_a_file_for_another_command_names_that_command(write, more):
    """Also where one of its values is wrong: that command will say which."""
    assert hint(f"model: tiny\npolicy: p\n{more}") == "It looks like a configuration for `windvane two`."


@pytest.mark.parametrize(
    "text",
    [
        "model: tiny\npolicy: p\nqueries: q.jsonl\n",
        "model: tiny\npolicy: p\nloss: {type: simpo, gama: 1}\n",
        "policy: p\n",
        "model: tiny\n",
        BASE + "sed: 3\n",
        BASE + "seed: x\n",
        "{}",
    ],
)
def test_no_command_is_named_whose_configuration_it_cannot_be(write, text):
    """A key of neither, a key that is missing for both, or a mistake in the command's own."""
    assert hint(text) == ""


def test_a_missing_file_names_those_near_it(write):
    write(BASE, "sso.yaml")
    with pytest.raises(ConfigError, match=r"^sso\.yml does not exist\. Near it: sso\.yaml\.$"):
        load_config(Config, Path("sso.yml"))
    with pytest.raises(
        ConfigError, match=r"^nowhere/sso\.yaml does not exist\. The folder nowhere does not exist either"
    ):
        load_config(Config, Path("nowhere/sso.yaml"))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="is a folder; give the YAML file in it"):
        load_config(Config, tmp_path)


def test_a_needed_tag_is_asked_for(write):
    class Bare(Settings):
        loss: Annotated[Ipo | Simpo, Field(discriminator="type")]

    with pytest.raises(ConfigError, match=r"line 1: loss needs the key type, one of ipo, simpo; it is \{beta: 1\}"):
        load_config(Bare, write("loss: {beta: 1}\n"))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_as_override_is_accepted_or_explained(text):
    with contextlib.suppress(ConfigError):
        load_config(Config, None, ["model=m", "queries=q", text])
    with contextlib.suppress(ConfigError):
        load_config(Config, None, ["model=m", "queries=q", f"training.{text}", f"tags={text}"])


# ------------------------------------------------------------------------------------------------ what is written


def test_written_and_read_back(write):
    config = Config(
        model="1e-5", queries=DataSource(path="no"), tags=("yes", "0x10", "", "null", "é: #"),
        training=Training(learning_rate=3e-7, lora=Lora()), loss=Simpo(), threshold=0.5,
    )  # fmt: skip
    text = to_yaml(config)
    assert load_config(Config, write(text)) == config
    assert to_yaml(load_config(Config, write(text))) == text
    assert yaml.safe_load(text)["model"] == "1e-5"  # other readers of YAML agree
    assert yaml.safe_load(text)["training"]["learning_rate"] == 3e-7
    assert list(yaml.safe_load(text)) == list(Config.model_fields)


@settings(max_examples=40, deadline=None)
@given(st.text(), st.floats(allow_nan=False, min_value=0, exclude_min=True), st.lists(st.text()))
def test_any_value_survives_the_round_trip(tmp_path_factory, model, rate, tags):
    config = Config(model=model, queries="q", training={"learning_rate": rate}, tags=tags)
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(Config, path) == config


def test_differences_name_key_old_and_new():
    old = Config(model="m", queries="q").model_dump(mode="json")
    new = Config(model="m", queries="q", seed=1, training={"learning_rate": 3e-5, "lora": {}}).model_dump(mode="json")
    assert differences(old, new) == [
        "training.learning_rate: 5e-7 -> 3e-5",
        "training.lora: null -> (absent)",
        "seed: 0 -> 1",
        "training.lora.rank: (absent) -> 8",
        "training.lora.alpha: (absent) -> 16.0",
    ]
    assert differences(old, old) == []
    assert differences({"a": 1, "b": [1]}, {"a": 1.0, "b": [1, 2]}) == ["a: 1 -> 1.0", "b: [1] -> [1, 2]"]
    assert differences({"a": "1"}, {"a": 1}) == ["a: '1' -> 1"]


def test_the_table_lists_every_key_once_with_its_type_default_and_meaning():
    rows = markdown_table(Config).splitlines()
    assert rows[0] == "| key | type | default | meaning |"
    assert "| `model` | text | required | Folder or hub name of the model. |" in rows
    assert "| `queries.path` | text | required | File (" in "\n".join(rows)
    assert "| `loss.type` | `ipo` or `simpo` | `ipo` | Preference loss. |" in rows
    assert "| `loss.beta` | number > 0 | `0.2` | (ipo) Regularisation, per nat. |" in rows
    assert "| `loss.gamma` | number | `0.5` | (simpo) Target margin. |" in rows
    assert "| `training.epochs` | whole number ≥ 1 | `2` | Passes over the pairs. |" in rows
    assert "| `training.learning_rate` | number > 0 | `5e-7` | Peak learning rate \\| per step. |" in rows
    assert "| `training.lora` | group or null | `null` | Train an adapter only. |" in rows
    assert "| `training.lora.rank` | whole number ≥ 1 ≤ 256 | `8` | Rank of the update. |" in rows
    assert "| `threshold` | number or `mean` | `mean` | Of the filter. |" in rows
    assert len(rows) == len(set(rows))


def test_the_table_points_back_to_a_group_with_the_same_defaults():
    class Two(Settings):
        first: Training = Training()
        same: Training | None = None
        other: Training = Training(epochs=3)
        either: Ipo | Simpo | None = None
        """One or none."""

    rows = markdown_table(Two).splitlines()
    assert "| `same.*` |  |  | As `first.*`. |" in rows
    assert "| `other.epochs` | whole number ≥ 1 | `3` | Passes over the pairs. |" in rows
    assert "| `either.type` | `ipo` or `simpo` | `null` | One or none. |" in rows
    assert not [row for row in rows if row.startswith("| `same.epochs`")]


def test_config_and_data_are_imported_without_heavy_libraries():
    code = (
        "import sys, windvane.config, windvane.data;"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'pandas', 'numpy', 'trl'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
