"""What can be wrong with a SeRA run is said once, with its value and the way out, before anything is trained."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.recipes import offline_pairs, small
from tests.test_cli import Outcome, Place, refused

CONFIG = {
    "model": "model",
    "preferences": "pairs.jsonl",
    "output_dir": "run",
    "rounds": 2,
    "holdout": 0.25,
    "bootstrapping": {"samples": 2, "max_prompts": 2, "sampling": {"max_new_tokens": 4}},
    "training": {"pairs_per_step": 8, "learning_rate": 1e-3, "guards": {"max_cut_share": None, "max_fall": None}},
}
EVALUATION = "evaluation={queries: queries.jsonl, max_new_tokens: 4}"


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    with offline_pairs.quick_collections():
        yield


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def place(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Place:
    """A user's folder with a model, preference pairs, other queries and a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("WINDVANE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model, tmp_path / "model")
    offline_pairs.write_pairs(tmp_path / "pairs.jsonl")
    small.write_queries(tmp_path / "queries.jsonl", ["the whale", "the moon"])
    (tmp_path / "sera.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return Place(tmp_path, capfd)


def sera(place: Place, *overrides: str) -> Outcome:
    """Run ``windvane sera sera.yaml`` with overrides."""
    return place("sera", "sera.yaml", *(word for each in overrides for word in ("--set", each)))


def refused_untrained(place: Place, run: Callable[[], Outcome], *parts: str) -> None:
    """Check what `refused` checks, and that nothing was trained before."""
    refused(place, run, *parts)
    trained = [path.relative_to(place.root) for path in place.root.rglob("policy/model.safetensors")]
    assert trained == [], "trained before it was said"


SETTINGS = {
    "keep 0": (["selection.keep=0"], ["selection.keep", "than 0", "0"]),
    "keep above 1": (["selection.keep=1.5"], ["selection.keep", "at most 1", "1.5"]),
    "keep 1 while the dropped are to be replaced": (
        ["selection.keep=1"], ["selection.keep: 1", "bootstrapping.share", "null"],
    ),
    "keep 1 in every source while the dropped are to be replaced": (
        ["selection={keep: 1, by_source: true}"], ["selection.keep: 1", "bootstrapping.share"],
    ),
    "a share of 1 for every source while the dropped are to be replaced": (
        ["selection={keep: 1, by_source: {a: 1, b: 1}}"], ["selection.keep: 1", "bootstrapping.share"],
    ),
    "a share of 0 for a source": (["selection.by_source={a: 0}"], ["selection.by_source.a", "than 0", "0"]),
    "gamma 0": (["selection.gamma=0"], ["selection.gamma", "than 0", "0"]),
    "gamma above 1": (["selection.gamma=1.5"], ["selection.gamma", "at most 1", "1.5"]),
    "an unknown form of reward": (["selection.reward=logratio"], ["selection.reward", "logratio", "log_ratio"]),
    "one round": (["rounds=1"], ["rounds", "at least 2", "1"]),
    "one sample": (["bootstrapping.samples=1"], ["bootstrapping.samples", "at least 2", "1"]),
    "a share of 0 to add": (["bootstrapping.share=0"], ["bootstrapping.share", "than 0", "0"]),
    "temperature below 0": (["bootstrapping.sampling.temperature=-1"], ["bootstrapping.sampling.temperature", "-1"]),
    "a loss that needs principles": (["loss={type: sso}"], ["loss", "sso", "windvane sso"]),
    "an unknown loss": (["loss.type=dop"], ["dop", "dpo"]),
    "a frozen copy as the reference": (["training.reference=frozen"], ["training.reference: frozen", "scored"]),
    "the adapter's off as the reference": (
        ["training={reference: adapter_off, lora: {}}"], ["training.reference: adapter_off", "scored"],
    ),
    "the last policy as reference of a loss without one": (
        ["reference=previous", "loss={type: simpo}"], ["reference: previous", "simpo"],
    ),
    "an unknown reference": (["reference=sft"], ["reference", "sft", "initial", "previous"]),
    "an unknown start": (["start=first"], ["start", "first", "initial", "previous"]),
    "no label to flip": (["noise={flip: 0}"], ["noise.flip", "than 0", "0"]),
    "all labels to flip": (["noise={flip: 1}"], ["noise.flip", "than 1", "1"]),
    "all prompts held out": (["holdout=1"], ["holdout", "less than 1", "1"]),
    "an evaluation on nothing": (["holdout=0", "evaluation={}"], ["evaluation.queries", "holdout"]),
    "the held-out queries of SSO": (["evaluation={holdout: 4}"], ["evaluation.holdout", "holdout"]),
    "an unknown key": (["bootstraping.samples=4"], ["bootstraping", "did you mean bootstrapping?"]),
    "an unknown key inside": (["selection.kep=0.5"], ["selection.kep", "did you mean selection.keep?"]),
    "shards of nothing": (["shard_size=0"], ["shard_size", "at least 1", "0"]),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "parts"), SETTINGS.values(), ids=SETTINGS)
def test_a_wrong_setting(place: Place, overrides: list[str], parts: list[str]) -> None:
    refused_untrained(place, lambda: sera(place, *overrides), *parts)
    assert not (place.root / "run").exists()


DATA = {
    "a source that no pair has": (["selection.by_source={c: 0.5}"], ["selection.by_source", "'c'", "'a', 'b'"]),
    "a held-out share that rounds to nothing": (["holdout=0.01"], ["holdout: 0.01", "24 prompts", "0 to measure"]),
    "a held-out share that rounds to all": (["holdout=0.99"], ["holdout: 0.99", "0 to train on"]),
    "preferences that are not there": (["preferences=pars.jsonl"], ["pars.jsonl", "pairs.jsonl"]),
    "evaluation queries that are not there": (["evaluation={queries: query.jsonl}"], ["query.jsonl", "queries.jsonl"]),
    "evaluation queries that are all the prompts": (
        ["evaluation={queries: pairs.jsonl}"], ["pairs.jsonl", "every prompt", "evaluation.queries"],
    ),
    "a model that is not there": (["model=./modle"], ["./modle", "does not exist"]),
    "samples longer than the model": (
        ["bootstrapping.sampling.max_new_tokens=2000"], ["1024", "lower bootstrapping.sampling.max_new_tokens"],
    ),
    "answers longer than the model": (
        ["evaluation={queries: queries.jsonl, max_new_tokens: 2000}"], ["1024", "lower evaluation.max_new_tokens"],
    ),
    "a source that no pair has, while all are kept": (
        ["selection={keep: 1, by_source: {c: 0.5}}"], ["selection.by_source", "'c'", "'a', 'b'"],
    ),
    "samples longer than asked for": (
        ["training.max_length=100", "bootstrapping.sampling.max_new_tokens=90"],
        ["max_new_tokens (90)", "training.max_length (100)"],
    ),
    "too few labels to flip": (["noise={flip: 0.01}"], ["noise.flip: 0.01", "none"]),
    "pairs longer than asked for": (["training.max_length=20"], ["training.max_length", "20"]),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "parts"), DATA.values(), ids=DATA)
def test_what_only_the_files_show(place: Place, overrides: list[str], parts: list[str]) -> None:
    refused_untrained(place, lambda: sera(place, *overrides), *parts)


GOOD = {"prompt": "Name it.", "chosen": "yes", "rejected": "no"}
ROWS: dict[str, tuple[list[dict[str, object]], list[str]]] = {
    "one class only": ([GOOD, {"prompt": "x", "chosen": "y"}], ["pairs.jsonl", "line 2", "rejected"]),
    "one class only, and null": ([{**GOOD, "rejected": None}], ["pairs.jsonl", "line 1", "rejected"]),
    "single responses with a label": (
        [{"prompt": "x", "completion": "y", "label": True}, {"prompt": "x", "completion": "z", "label": False}],
        ["pairs.jsonl", "line 1", "chosen", "completion, label", "chosen_column"],
    ),
    "no rows": ([], ["pairs.jsonl", "pair"]),
    "equal sides": ([GOOD, {**GOOD, "rejected": "yes"}], ["pairs.jsonl", "line 2", "the same"]),
    "an empty side": ([GOOD, {**GOOD, "chosen": ""}], ["pairs.jsonl", "line 2", "chosen"]),
    "one prompt, of which none can be held out": ([GOOD], ["holdout: 0.25", "1 prompt"]),
}


@pytest.mark.parametrize(("rows", "parts"), ROWS.values(), ids=ROWS)
def test_pairs_that_are_none(place: Place, rows: list[dict[str, object]], parts: list[str]) -> None:
    place.rows(*rows, name="pairs.jsonl")
    refused_untrained(place, lambda: sera(place), *parts)


def test_ids_that_a_round_would_give(place: Place) -> None:
    rows = [{**GOOD, "id": name, "prompt": f"Name {name}."} for name in ("a", "b", "c", "d", "b-round-2")]
    place.rows(*rows, name="pairs.jsonl")
    refused_untrained(place, lambda: sera(place), "'b'", "'b-round-2'", "other ids")


def test_a_pair_longer_than_the_model_is_no_matter_of_sampling(place: Place) -> None:
    """Nothing is sampled yet: to lower max_new_tokens, which samples have, would be no way out."""
    rows = [{**GOOD, "prompt": f"Name {thing}.", "chosen": "a " * 600} for thing in small.THINGS]
    place.rows(*rows, name="pairs.jsonl")
    refused_untrained(place, lambda: sera(place), "Name the fish.", "1024")
    assert "max_new_tokens" not in sera(place).err


def test_broken_json_names_its_line(place: Place) -> None:
    lines = (place.root / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    place.write("pairs.jsonl", "\n".join([*lines[:2], lines[2][:-5], *lines[3:]]))
    refused_untrained(place, lambda: sera(place), "pairs.jsonl", "line 3")


@pytest.mark.parametrize("longer", [0, 1], ids=["of one length", "of many lengths"])
def test_margins_that_are_all_equal(place: Place, longer: int) -> None:
    """The policy of round 1 is the reference: nothing tells the pairs apart, whichever batch each was measured in."""
    rows = offline_pairs.rows()
    for number, row in enumerate(rows):
        row["chosen"] += " word" * (longer * number * 7 % 40)
    place.rows(*rows, name="pairs.jsonl")
    refused(place, lambda: sera(place, "training.learning_rate=1e-30"), "margins", "learning rate", "27 margins")
    assert (place.root / "run/round-1/policy").is_dir()
    assert not (place.root / "run/round-2/policy").exists()


def test_the_directory_of_another_command(place: Place) -> None:
    train = {key: CONFIG[key] for key in ("model", "preferences", "output_dir", "training")}
    place.write("train.yaml", yaml.safe_dump(train))
    assert place("train", "train.yaml").code == 0
    refused(place, lambda: sera(place), "a run of train, not of sera", "output_dir")
    assert place("train", "train.yaml").code == 0


def test_what_changed_between_two_starts(place: Place) -> None:
    """Settings, pairs and evaluation queries: with others, old results are neither passed off nor mixed."""
    assert sera(place, EVALUATION).code == 0
    refused(place, lambda: sera(place, EVALUATION, "selection.keep=0.5"), "selection.keep: 0.7 -> 0.5", "output_dir")
    pairs, queries = place.root / "pairs.jsonl", place.root / "queries.jsonl"
    old = pairs.read_text(encoding="utf-8")
    pairs.write_text(old.replace("No star at all", "No star here"), encoding="utf-8")
    refused(place, lambda: sera(place, EVALUATION), "has changed", "output_dir")
    pairs.write_text(old, encoding="utf-8")
    small.write_queries(queries, ["the whale", "the star"])
    refused(place, lambda: sera(place, EVALUATION), "has changed", "output_dir")
    small.write_queries(queries, ["the whale", "the moon"])
    assert sera(place, EVALUATION).code == 0


def test_a_mistake_can_be_put_right_in_the_same_directory(place: Place) -> None:
    """What failed before it did anything does not hold the directory."""
    assert sera(place, "holdout=0.01").code == 2
    rows = [json.loads(line) for line in (place.root / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sera(place, "model=./modle").code == 2
    assert sera(place).code == 0
    assert len((place.root / "run/tokenised-pairs.jsonl").read_bytes().split(b"\n")) == len(rows) + 1


def test_a_round_that_can_add_nothing_says_so(place: Place) -> None:
    """One token is too short for any sample to end, so that none may stand in a pair."""
    outcome = sera(place, "bootstrapping.sampling.max_new_tokens=1")
    assert outcome.code == 0
    assert "round 2 adds 0 of the 2 pairs that it could: prompts without a pair: too_few 2;" in outcome.err
    assert "raise that, or bootstrapping.samples" in " ".join(outcome.err.split())
