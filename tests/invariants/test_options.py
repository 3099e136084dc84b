"""No setting of the training is inert: each changes the result, or what is written, or is refused where it cannot."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import windvane
from tests.test_docs import missing_tests
from tests.training.pairs import examples
from tests.training.test_equality import DPO, STEP, settings, train
from windvane import losses
from windvane.config import Settings
from windvane.training import GuardSettings, LoraSettings, TrainingSettings

MOVES: dict[str, object] = {
    "learning_rate": 2e-3,
    "pairs_per_step": 4,
    "epochs": 2,
    "warmup_ratio": 0.5,
    "schedule": "constant",
    "adam_beta1": 0.5,
    "adam_beta2": 0.5,
    "weight_decay": 0.9,
    "max_grad_norm": 1e-8,
    "lora": LoraSettings(rank=2),
    "precision": "bf16",
}
"""Settings that change the trained weights, with a value that differs from the one of `whole`."""
EQUALITY, GUARDS = "tests/training/test_equality.py::", "tests/training/test_guards.py::"
ELSEWHERE = {
    "micro_batch": EQUALITY + "test_accumulation_changes_nothing",
    "reference": GUARDS + "test_the_adapter_cannot_be_switched_off_where_there_is_none",
    "gradient_checkpointing": EQUALITY + "test_gradient_checkpointing_trains_the_same",
    "save_every": EQUALITY + "test_resumed_equals_uninterrupted",
    "layout": EQUALITY + "test_plain_rows_train_the_same",
    "max_length": GUARDS + "test_pairs_that_are_too_long_are_never_cut",
    "guards": GUARDS + "test_dpo_passes_all_guards",
    "report_to": "tests/invariants/test_options.py::test_trackers_are_handed_to_transformers",
    # of the guards
    "step0_tolerance": GUARDS + "test_a_reference_of_another_model_aborts_before_the_first_update",
    "max_fall": GUARDS + "test_both_sides_falling_stops",
    "window": GUARDS + "test_falling_is_judged_over_the_window_and_on_both_sides",
    "max_length_ratio": GUARDS + "test_pairs_that_teach_length_or_never_to_stop_are_refused",
    "max_cut_share": GUARDS + "test_pairs_that_teach_length_or_never_to_stop_are_refused",
}
"""Settings that must not change the trained weights, and the test of what they do instead."""
LORA = {
    "rank": 2,
    "alpha": 8.0,
    "dropout": 0.5,
    "target_modules": ("q_proj",),
    "layers": (0,),
}


def weights(trained):
    return trained[1]


def same(left, right):
    return left.keys() == right.keys() and all((value == right[name]).all() for name, value in left.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """20 pairs in three steps."""
    return weights(train(tmp_path_factory.mktemp("whole")))


def test_every_setting_is_accounted_for():
    assert set(MOVES) | set(ELSEWHERE) == set(TrainingSettings.model_fields) | set(GuardSettings.model_fields)
    assert set(LORA) == set(LoraSettings.model_fields)
    base = settings()
    assert all(getattr(base, name) != value for name, value in MOVES.items())
    assert missing_tests(" ".join(ELSEWHERE.values())) == []


def every_settings_class():
    """Import the whole library and return all of its settings."""
    for module in pkgutil.walk_packages(windvane.__path__, "windvane."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, new = set(), [Settings]
    while new:
        kinds = new.pop().__subclasses__()
        found.update(kinds)
        new.extend(kinds)
    return sorted((kind for kind in found if kind.__module__.startswith("windvane.")), key=lambda kind: kind.__name__)


def unread(kinds):
    """Return the fields that no line of the library reads as an attribute."""
    source = Path(windvane.__file__).parent.rglob("*.py")
    nodes = [node for file in source for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    return [f"{kind.__name__}.{name}" for kind in kinds for name in kind.model_fields if name not in read]


def test_every_setting_of_the_library_is_read_somewhere():
    kinds = every_settings_class()
    assert len(kinds) > 30
    assert [name for name in unread(kinds) if not name.endswith(".type")] == []


def test_a_setting_that_nobody_reads_is_found():
    class Idle(Settings):
        nobody_reads_this: int = 0

    assert unread([Idle]) == ["Idle.nobody_reads_this"]


@pytest.mark.parametrize("name", MOVES)
def test_every_setting_that_should_move_the_weights_does(whole, tmp_path, name):
    assert not same(whole, weights(train(tmp_path, **{name: MOVES[name]})))


@pytest.mark.parametrize("name", LORA)
def test_every_setting_of_an_adapter_has_an_effect(tmp_path, name):
    base = LoraSettings(rank=4)
    assert getattr(base, name) != LORA[name]
    first, second = (
        weights(train(tmp_path / str(number), lora=lora, learning_rate=1e-2))
        for number, lora in enumerate((base, base.model_copy(update={name: LORA[name]})))
    )
    assert not same(first, second)


def test_the_seed_deals_the_pairs_anew(whole, tmp_path):
    assert not same(whole, weights(train(tmp_path, seed=4)))


def test_trackers_are_handed_to_transformers(monkeypatch):
    """Whether one is installed is not the question here."""
    import torch

    from windvane.training.policy import training_arguments

    monkeypatch.setattr("windvane.training.settings.find_spec", lambda name: name)
    for names in ((), ("tensorboard",)):
        arguments = training_arguments(
            TrainingSettings(**STEP, report_to=names), pairs=8, folder="unused", seed=0, device=torch.device("cpu")
        )
        assert arguments.report_to == list(names)


@pytest.mark.parametrize("kind", ["dpo", "cdpo", "robust_dpo", "ipo", "slic", "simpo", "orpo", "kto_pair", "sppo"])
def test_every_loss_trains_its_own_way_and_starts_finite(whole, tmp_path, kind):
    """The settings of each loss reach the weights; at the start every loss is the finite value that it should be."""
    from pydantic import TypeAdapter

    objective = losses.make_objective(TypeAdapter(losses.LossSettings).validate_python({"type": kind}))
    off = GuardSettings(max_fall=None)
    result, parameters = train(tmp_path, objective=objective, given=examples(20), guards=off)
    assert all(abs(entry["loss"]) < 1e6 for entry in result.history)
    assert same(whole, parameters) == (kind == "dpo"), DPO
