"""The same training by different ways gives the same numbers."""

import math
import shutil

import pytest
import torch

from tests import tiny
from tests.training.pairs import ALL_VIEWS, examples, loaded
from windvane import losses
from windvane.training import LoraSettings, TrainingSettings, score_reference, train_policy
from windvane.training.settings import GuardSettings

DPO = losses.make_objective(losses.DpoSettings(beta=0.1))
IPO = losses.make_objective(losses.IpoSettings(beta=0.2))
SSO = losses.make_objective(losses.SsoSettings(base=losses.DpoSettings(beta=0.1)))
LORA = LoraSettings(rank=4)
STEP = {"learning_rate": 1e-3, "pairs_per_step": 8, "micro_batch": 8, "warmup_ratio": 0.0, "save_every": None}


def settings(**changes):
    return TrainingSettings(**{**STEP, **changes})


def train(folder, *, given=None, objective=DPO, model=None, seed=3, callbacks=(), **changes):
    """Train a tiny model; return the result and its parameters."""
    policy = model or loaded()
    result = train_policy(
        policy,
        examples(20) if given is None else given,
        objective,
        settings(**changes),
        output=folder / "policy",
        checkpoints=folder / "checkpoints",
        seed=seed,
        callbacks=callbacks,
    )
    return result, {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def numbers(result, *names):
    return [[entry[name] for name in names] for entry in result.history]


def assert_close(left, right, tolerance=2e-5):
    """Same loss and gradient norm at every step, same parameters at the end."""
    for mine, theirs in zip(numbers(left[0], "loss", "grad_norm"), numbers(right[0], "loss", "grad_norm"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    for name, value in left[1].items():
        torch.testing.assert_close(value, right[1][name], rtol=1e-3, atol=tolerance, msg=name)


def assert_equal(left, right):
    """Bit for bit."""
    assert left[0] == right[0]
    assert left[1].keys() == right[1].keys()
    for name, value in left[1].items():
        assert torch.equal(value, right[1][name]), name


def same_files(left, right):
    files = sorted(path.relative_to(left) for path in left.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(right) for path in right.rglob("*") if path.is_file())
    for file in files:
        assert (left / file).read_bytes() == (right / file).read_bytes(), file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three steps of 8, 8 and 4 pairs of unequal lengths, each in one micro-batch."""
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("micro", [1, 2])
def test_accumulation_changes_nothing(whole, tmp_path, micro):
    assert [entry["pairs"] for entry in whole[0].history] == [8, 8, 4]
    assert_close(train(tmp_path, micro_batch=micro), whole)


def test_plain_rows_train_the_same(whole, tmp_path):
    plain = train(tmp_path, layout="plain")
    assert (plain[0].layout.name, whole[0].layout.name) == ("plain", "shared")
    assert_close(plain, whole)


def test_gradient_checkpointing_trains_the_same(whole, tmp_path):
    assert_close(train(tmp_path, gradient_checkpointing=True), whole, tolerance=1e-6)


def test_gradient_checkpointing_reaches_an_adapter(tmp_path):
    """Nothing that goes into the first layer needs a gradient, which keeps a careless checkpoint from giving any."""
    runs = [train(tmp_path / str(saves), gradient_checkpointing=saves, lora=LORA) for saves in (False, True)]
    assert_close(runs[1], runs[0], tolerance=1e-6)
    assert runs[1][0].history[0]["grad_norm"] > 0


def test_a_frozen_copy_is_the_reference_that_was_scored_once(whole, tmp_path):
    assert_close(train(tmp_path, reference="frozen"), whole)


def test_lora_with_its_adapter_off_is_a_frozen_copy_is_scored_once(tmp_path):
    runs = {mode: train(tmp_path / mode, reference=mode, lora=LORA, learning_rate=1e-2)
            for mode in ("scored", "frozen", "adapter_off")}  # fmt: skip
    assert abs(runs["scored"][0].history[-1]["chosen_change"]) > 0.05  # the reference stays while the policy moves
    assert_close(runs["frozen"], runs["scored"])
    assert_close(runs["adapter_off"], runs["scored"])


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("layout", ["shared", "plain"])
@pytest.mark.parametrize("objective", [DPO, IPO, SSO], ids=["dpo", "ipo", "sso"])
def test_training_starts_at_the_known_loss(tmp_path, objective, layout, lora):
    """Policy = reference: ln 2 for DPO, (1/(2β))² for IPO, and what the objective gives for SSO; margins are 0."""
    given = examples(8, views=objective.views)
    result, _ = train(tmp_path, given=given, objective=objective, layout=layout, lora=lora, micro_batch=2)
    model = tiny.model()
    scored = score_reference(model, given, views=objective.views, layout=result.layout, pad_id=3)
    mean_w = sum(sso_weight(each) for each in scored) / len(scored) if objective is SSO else 0
    known = {DPO: math.log(2), IPO: (1 / 0.4) ** 2, SSO: math.log(2) * (1 + mean_w * 0.2)}[objective]
    assert result.history[0]["loss"] == pytest.approx(known, rel=1e-4)
    assert result.history[0]["margin"] == pytest.approx(0, abs=1e-4)


def sso_weight(example):
    """W by hand: sigmoid(-(α·mean_logp(y⁺|x) + (1-α)·mean_logp(y⁻|x)))."""
    (chosen, rejected), pair = example.reference["plain"], example.views["plain"]
    mean = 0.66 * chosen / len(pair.chosen) + 0.34 * rejected / len(pair.rejected)
    return 1 / (1 + math.exp(mean))


def test_sso_without_steering_and_weight_walks_the_way_of_dpo(tmp_path):
    given = examples(16, views=ALL_VIEWS)
    base = losses.DpoSettings(beta=0.1)
    none = losses.SsoSettings(base=base, steering_weight=0.0, weight_scope="none")
    assert_equal(
        train(tmp_path / "sso", given=given, objective=losses.make_objective(none)),
        train(tmp_path / "dpo", given=given, objective=DPO),
    )


def test_dropout_of_the_model_is_off(tmp_path):
    without = train(tmp_path / "without")
    dropping = train(tmp_path / "with", model=loaded(attention_dropout=0.5))
    assert_equal(without, dropping)
    checkpointed = train(tmp_path / "saving", model=loaded(attention_dropout=0.5), gradient_checkpointing=True)
    assert_close(checkpointed, without, tolerance=1e-6)


def test_dropout_of_an_adapter_has_an_effect_but_not_on_the_start(tmp_path):
    plain, dropping = (
        train(tmp_path / str(rate), lora=LoraSettings(rank=4, dropout=rate), learning_rate=1e-2)[0]
        for rate in (0.0, 0.5)
    )
    assert dropping.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert dropping.final_loss != plain.final_loss


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, dropout=0.1)], ids=["full", "lora"])
def test_resumed_equals_uninterrupted(tmp_path, lora):
    """Bit for bit, in the result and in the files; a checkpoint that a kill left half-written is passed over."""
    options = {"lora": lora, "epochs": 2, "save_every": 2, "given": examples(12), "pairs_per_step": 4, "micro_batch": 2}
    uninterrupted = train(tmp_path / "a", **options)
    assert uninterrupted[0].steps == 6

    class Kill(BaseException):
        pass

    class StopBefore(tiny.transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 5:
                raise Kill

    with pytest.raises(Kill):
        train(tmp_path / "b", callbacks=[StopBefore()], **options)
    checkpoints = tmp_path / "b" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-4"]
    broken = shutil.copytree(checkpoints / "checkpoint-4", checkpoints / "checkpoint-5")
    (broken / "COMPLETE").unlink()
    (broken / "trainer_state.json").write_text('{"global_s')
    resumed = train(tmp_path / "b", **options)
    assert_equal(resumed, uninterrupted)
    same_files(tmp_path / "a" / "policy", tmp_path / "b" / "policy")
    again = train(tmp_path / "b", **options)  # killed after the last checkpoint, before the policy was saved
    assert_equal(again, uninterrupted)


def test_a_state_space_model_trains_on_plain_rows(tmp_path):
    result, _ = train(tmp_path, model=loaded("mamba2"), given=examples(4), epochs=3)
    assert result.layout.name == "plain"
    assert result.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.final_loss < result.history[0]["loss"]


def test_updates_too_small_for_16_bits_arrive(tmp_path):
    """At this rate hardly a bfloat16 weight could move: the next bfloat16 number is too far away."""
    policy = loaded()
    policy.model.to(torch.bfloat16)
    before = {name: value.detach().float() for name, value in policy.model.named_parameters()}
    train(tmp_path, model=policy, learning_rate=1e-7)
    saved = tiny.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    moved = seen = total = 0
    for name, value in saved.named_parameters():
        assert value.dtype == torch.float32
        seen += int((value.to(torch.bfloat16).float() != before[name]).sum())
        moved += int((value != before[name]).sum())
        total += value.numel()
    assert seen < 0.01 * total
    assert moved > 0.8 * total


def test_bfloat16_computation_starts_within_the_tolerance(tmp_path):
    result, parameters = train(tmp_path, precision="bf16")
    assert result.history[0]["loss"] == pytest.approx(math.log(2), abs=0.02)
    assert all(value.dtype == torch.float32 for value in parameters.values())


def test_a_policy_without_a_reference_needs_none(tmp_path):
    simpo = losses.make_objective(losses.SimpoSettings())
    result, _ = train(tmp_path, objective=simpo, given=examples(8), epochs=3)
    assert "chosen_change" not in result.history[0]
    assert result.final_loss < result.history[0]["loss"]


def test_the_saved_policy_is_the_trained_one_and_can_generate(tmp_path):
    policy = loaded()
    _, parameters = train(tmp_path, model=policy)
    saved = tiny.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert saved.config.use_cache
    for name, value in saved.named_parameters():
        assert torch.equal(value, parameters[name])
    assert tiny.transformers.AutoTokenizer.from_pretrained(tmp_path / "policy").chat_template


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft reads it by its old name
def test_lora_is_saved_merged_and_as_an_adapter(tmp_path):
    from peft import PeftModel

    given = examples(8)
    _, _ = train(tmp_path, given=given, lora=LoraSettings(rank=4, layers=(1,)), learning_rate=1e-2)
    merged = tiny.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    adapted = PeftModel.from_pretrained(tiny.model(), tmp_path / "policy" / "adapter")
    assert all("layers.1." in name for name, _ in adapted.named_parameters() if "lora" in name)
    ids = torch.tensor([given[0].views["plain"].prompt])
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged(ids).logits, tiny.model()(ids).logits, atol=1e-2)


def test_guards_can_be_off(tmp_path):
    off = GuardSettings(step0_tolerance=None, max_fall=None, max_length_ratio=None, max_cut_share=None)
    assert train(tmp_path, guards=off)[0].steps == 3
