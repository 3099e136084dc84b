"""The one model in memory: when it is loaded, and in which number format it is handed over."""

import pytest
import torch

from tests import tiny
from windvane.engines.settings import EngineSettings
from windvane.engines.workbench import Workbench
from windvane.types import Completion, Message, ScoreRequest

ASK = [ScoreRequest((Message(role="user", content="Hi"),), (Completion(text="a", token_ids=(9, 2), finish="stop"),))]


@pytest.fixture
def said():
    return []


@pytest.fixture
def bench(said):
    return Workbench(EngineSettings(dtype="bfloat16"), say=said.append, count=lambda *_: None)


def test_a_model_is_loaded_at_the_first_call_and_once(bench, said, tiny_model_folder):
    engine = bench.engine(tiny_model_folder)
    assert said == []
    engine.score(ASK)
    bench.engine(tiny_model_folder).score(ASK)
    assert said == [f"loading {tiny_model_folder}"]


@pytest.mark.parametrize("scored_before", [True, False])
def test_weights_that_are_to_be_trained_are_those_on_file_not_those_the_engine_rounded(
    bench, said, tiny_model_folder, scored_before
):
    """Else each iteration of a run would begin by rounding away what the one before has learned."""
    if scored_before:
        bench.engine(tiny_model_folder).score(ASK)
    taken = bench.take(tiny_model_folder, float32=True)
    for name, weight in tiny.model().named_parameters():
        assert torch.equal(taken.model.get_parameter(name), weight), name
    assert len(said) == 1 + scored_before


def test_a_model_is_handed_over_as_it_is_and_not_kept(bench, said, tiny_model_folder):
    engine = bench.load(str(tiny_model_folder))
    taken = bench.take(tiny_model_folder)
    assert taken is engine.loaded
    assert taken.model.dtype == torch.bfloat16
    assert bench.load(str(tiny_model_folder)) is not engine
    assert len(said) == 2
