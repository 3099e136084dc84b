"""What stops a run: the numbers are named, and the way out."""

import math

import pytest
import torch

from tests.training.pairs import END, examples, loaded
from tests.training.test_equality import DPO, LORA, train
from windvane import losses
from windvane.errors import ConfigError, DataError, TrainingDiverged
from windvane.training import EncodedPair, GuardSettings, TrainingExample, adapter_off, score_reference
from windvane.training.guards import check_data, check_fall, check_start, check_step
from windvane.training.policy import _split_step, check_sharded
from windvane.training.settings import TrainingSettings


def one(chosen, rejected):
    return [TrainingExample("a", {"plain": EncodedPair((5,), chosen, rejected)})]


def test_a_reference_of_another_model_aborts_before_the_first_update(tmp_path):
    policy = loaded()
    other = loaded(seed=1).model
    layout = train(tmp_path / "first")[0].layout
    scored = score_reference(other, examples(8), views=("plain",), layout=layout, pad_id=3)
    before = {name: value.clone() for name, value in policy.model.named_parameters()}
    with pytest.raises(
        TrainingDiverged, match=r"nats per token on average .limit training.guards.step0_tolerance = 0.02"
    ) as error:
        train(tmp_path / "second", model=policy, given=scored)
    assert "0.6931 was due" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in policy.model.named_parameters())
    unchecked = GuardSettings(step0_tolerance=None, max_fall=None)
    assert train(tmp_path / "third", model=policy, given=scored, guards=unchecked)[0].steps == 1


def test_references_joined_to_the_wrong_pairs_abort(tmp_path):
    layout = train(tmp_path / "first")[0].layout
    scored = score_reference(loaded().model, examples(8), views=("plain",), layout=layout, pad_id=3)
    shifted = [TrainingExample(each.id, each.views, scored[number - 1].reference) for number, each in enumerate(scored)]
    with pytest.raises(TrainingDiverged, match="joined to the wrong pairs"):
        train(tmp_path / "second", given=shifted)


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path):
    class Broken:
        views = ("plain",)
        needs_reference = False

        def __call__(self, policy, reference):
            return policy["plain"].chosen.sum * float("nan")

    policy = loaded()
    with pytest.raises(TrainingDiverged, match="The loss of step 1 is nan"):
        train(tmp_path, model=policy, objective=Broken())
    assert all(torch.isfinite(value).all() for value in policy.model.parameters())


def test_a_gradient_that_is_no_number_stops():
    with pytest.raises(TrainingDiverged, match=r"The grad norm of step 7 is inf.*it was 1e-05"):
        check_step(7, {"loss": 0.5, "grad_norm": math.inf, "learning_rate": 1e-5})


def test_both_sides_falling_stops(tmp_path):
    falling = losses.make_objective(losses.DpoSettings())

    class Sink:
        views = ("plain",)
        needs_reference = True

        def __call__(self, policy, reference):
            return falling(policy, reference) * 0 + policy["plain"].chosen.sum + policy["plain"].rejected.sum

    guards = GuardSettings(max_fall=0.5, window=2)
    with pytest.raises(
        TrainingDiverged, match=r"above training.guards.max_fall = 0.5. The policy is moving to answers"
    ):
        train(tmp_path, objective=Sink(), learning_rate=1e-2, epochs=4, guards=guards)


def test_falling_is_judged_over_the_window_and_on_both_sides():
    guards = GuardSettings(max_fall=1.0, window=2)
    down, up = {"chosen_change": -2.0, "rejected_change": -3.0}, {"chosen_change": 2.0, "rejected_change": -3.0}
    check_fall([down], guards)
    check_fall([down, up], guards)
    check_fall([up, up, up], guards)
    check_fall([down, down], GuardSettings(max_fall=None, window=2))
    with pytest.raises(TrainingDiverged, match=r"chosen responses were 2.00 and the rejected ones 3.00 nats"):
        check_fall([up, down, down], guards)


def test_a_small_difference_at_the_start_is_rounding():
    check_start(0.019, 0.7, 0.69, 0.02)
    for difference in (0.021, math.nan):
        with pytest.raises(TrainingDiverged):
            check_start(difference, 0.7, 0.69, 0.02)


def test_pairs_that_teach_length_or_never_to_stop_are_refused():
    guards = GuardSettings(max_length_ratio=4, max_cut_share=0.5)
    ends = frozenset({END})
    check_data(one((7, END), (8,) * 7), guards, end_ids=ends)
    with pytest.raises(DataError, match=r"2.0 tokens on average and rejected ones 9.0: a ratio of 4.5"):
        check_data(one((7, END), (8,) * 9), guards, end_ids=ends)
    with pytest.raises(DataError, match="100% of the chosen responses were cut off"):
        check_data(one((7, 8), (8,) * 7), guards, end_ids=ends)
    check_data(one((7, 8), (8,) * 90), GuardSettings(max_length_ratio=None, max_cut_share=None), end_ids=ends)


def test_pairs_that_are_too_long_are_never_cut(tmp_path):
    with pytest.raises(DataError, match=r"pairs are longer than training.max_length .10 tokens.; the longest, 'pair-"):
        train(tmp_path, max_length=10)
    with pytest.raises(DataError, match=r"longer than the positions of tiny .16 tokens"):
        train(tmp_path, model=loaded(max_position_embeddings=16))


def test_the_adapter_cannot_be_switched_off_where_there_is_none(tmp_path):
    with pytest.raises(ConfigError, match="adapter_off, but LlamaForCausalLM has no adapter"):
        train(tmp_path, reference="adapter_off")
    with pytest.raises(ConfigError, match="has no adapter"):
        adapter_off(loaded().model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"layers": (5,)}, "names layer 5, but the model has the layers 0 to 1"),
     ({"target_modules": ("nonsense",)}, r"target_modules \('nonsense',\) cannot be used.*down_proj, gate_proj")],
)  # fmt: skip
def test_adapters_for_what_is_not_there(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, lora=LORA.model_copy(update=changes))


def test_what_cannot_be_done_with_sharded_weights_is_refused():
    check_sharded(TrainingSettings())
    with pytest.raises(ConfigError, match=r"adapter cannot be merged.*launch without them"):
        check_sharded(TrainingSettings(lora=LORA))
    with pytest.raises(ConfigError, match=r"training.reference is frozen.*set it to scored"):
        check_sharded(TrainingSettings(reference="frozen"))


def test_a_step_is_split_exactly():
    def split(pairs, micro, processes=1):
        return _split_step(TrainingSettings(pairs_per_step=pairs, micro_batch=micro), processes=processes)

    assert split(8, 4) == (4, 2)
    assert split(6, 4) == (3, 2)
    assert split(7, 4) == (1, 7)
    assert split(8, 16, processes=2) == (4, 1)
    with pytest.raises(ConfigError, match="pairs_per_step is 8, which 3 processes cannot share evenly"):
        split(8, 4, processes=3)


def test_dpo_passes_all_guards(tmp_path):
    assert train(tmp_path, objective=DPO)[0].steps == 3
