"""The trainer in the hands of someone who knows TRL: rows in, TrainingArguments, callbacks, evaluation."""

import json
import math

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from tests import tiny
from tests.training.pairs import examples
from tests.training.test_equality import train
from windvane import PreferenceTrainer, losses
from windvane.errors import ConfigError, DataError
from windvane.training import LoraSettings, MetricsFile, RichProgress, TrainerOptions, score_reference
from windvane.training.adapters import add_adapter

DPO = losses.make_objective(losses.DpoSettings(beta=0.1))
ROWS = [
    {"prompt": f"question {number}", "chosen": f"short {number}", "rejected": f"a much longer answer {number}"}
    for number in range(6)
]


def arguments(folder, **changes):
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3}
    fixed = {"logging_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    return TrainingArguments(output_dir=str(folder), num_train_epochs=2, **options, **fixed, **changes)


@pytest.mark.parametrize("kind", [list, Dataset.from_list], ids=["list", "datasets"])
def test_rows_in_the_preference_format_train(tmp_path, kind):
    trainer = PreferenceTrainer(
        tiny.model(),
        arguments(tmp_path),
        kind(ROWS),
        objective=losses.DpoSettings(beta=0.1),  # settings do; elsewhere it is the objective made of them
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["pairs"] for entry in history] == [4, 2, 4, 2]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert history[-1]["accuracy"] == 1


def test_logging_every_second_step_reports_means_over_both(tmp_path):
    runs = []
    for every in (1, 2):
        options = arguments(tmp_path)
        options.logging_steps = every
        trainer = PreferenceTrainer(tiny.model(), options, examples(8), objective=DPO)
        trainer.train()
        runs.append([entry["margin"] for entry in trainer.state.log_history if "loss" in entry])
    assert runs[1] == pytest.approx([(runs[0][0] + runs[0][1]) / 2, (runs[0][2] + runs[0][3]) / 2], rel=1e-4)


def test_evaluation_weighs_every_pair_the_same_and_leaves_the_training_alone(tmp_path):
    model = tiny.model()
    held_out = examples(5, seed=9)
    trainer = PreferenceTrainer(model, arguments(tmp_path), examples(8), objective=DPO)
    metrics = trainer.evaluate(held_out)
    assert metrics["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["eval_pairs"] == 5
    trainer.train()
    assert trainer.state.log_history[1]["pairs"] == 4
    with pytest.raises(ConfigError, match="needs eval_dataset"):
        trainer.evaluate()


def test_held_out_pairs_are_compared_with_the_model_that_training_began_with(tmp_path):
    """Also where the evaluation comes from `eval_strategy`, after weights have moved."""
    options = arguments(tmp_path, eval_strategy="epoch")
    held_out = examples(5, seed=9)
    trainer = PreferenceTrainer(tiny.model(), options, examples(8), held_out, objective=DPO)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    trainer.train()
    during = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["eval_pairs"] for entry in during] == [5, 5]
    reference = score_reference(tiny.model(), held_out, views=("plain",), layout=trainer.layout, pad_id=3)
    assert trainer.evaluate(reference)["eval_margin"] == pytest.approx(during[-1]["eval_margin"], abs=1e-5)
    assert abs(during[-1]["eval_margin"]) > 1e-3


def test_a_16_bit_model_is_trained_in_32(tmp_path):
    model = tiny.model().to(torch.bfloat16)
    PreferenceTrainer(model, arguments(tmp_path), examples(4), objective=DPO)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_weights_of_an_adapter_are_trained_in_32_and_those_below_it_stay(tmp_path):
    model = add_adapter(tiny.model(), LoraSettings(rank=2), seed=0).to(torch.bfloat16)
    PreferenceTrainer(model, arguments(tmp_path), examples(4), objective=DPO)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name


@pytest.mark.parametrize("reference", ["scored", "frozen", "adapter_off"])
def test_policy_reference_and_evaluation_compute_in_the_same_number_format(tmp_path, reference):
    """And the logits stay in it: a float32 copy of them all would be the largest tensor of the training."""
    seen = []
    model = tiny.model()
    model.lm_head.register_forward_hook(lambda _, inputs, logits: seen.append(logits.dtype))
    inner = model.forward
    model.forward = lambda *args, **options: seen.append((out := inner(*args, **options)).logits.dtype) or out
    policy = add_adapter(model, LoraSettings(rank=2), seed=0) if reference == "adapter_off" else model
    options = TrainerOptions(layout="plain", reference=reference)
    trainer = PreferenceTrainer(policy, arguments(tmp_path, bf16=True), examples(8), objective=DPO, options=options)
    trainer.train()
    trainer.evaluate(examples(2, seed=5))
    assert set(seen) == {torch.bfloat16}
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=2e-3)
    assert all(parameter.dtype == torch.float32 for parameter in policy.parameters())


def test_a_start_apart_from_the_reference_can_be_allowed(tmp_path):
    from windvane.training import TrainingExample

    moved = [TrainingExample(each.id, each.views, {"plain": (-1.0, -2.0)}) for each in examples(4)]
    free = TrainerOptions(starts_at_reference=False)
    PreferenceTrainer(tiny.model(), arguments(tmp_path), moved, objective=DPO, options=free).train()


@pytest.mark.parametrize(
    ("rows", "tokenizer", "error", "message"),
    [
        (ROWS, None, ConfigError, "needs processing_class"),
        ([*ROWS, {"prompt": "x", "chosen": "y"}], tiny.tokenizer(), DataError, "row 6 of train_dataset.*'rejected'"),
        ([3], tiny.tokenizer(), DataError, "row 0 of train_dataset is a int"),
        ([], None, DataError, "no pair to train on"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, rows, tokenizer, error, message):
    with pytest.raises(error, match=message):
        PreferenceTrainer(tiny.model(), arguments(tmp_path), rows, objective=DPO, processing_class=tokenizer)


def test_some_references_are_as_bad_as_none(tmp_path):
    from windvane.training import TrainingExample

    first, *rest = examples(3)
    given = [TrainingExample(first.id, first.views, {"plain": (0.0, 0.0)}), *rest]
    with pytest.raises(DataError, match="2 of 3 examples have no reference log-probabilities, 'pair-1' first"):
        PreferenceTrainer(tiny.model(), arguments(tmp_path), given, objective=DPO)


def test_metrics_have_a_line_for_each_step_also_after_a_resume(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                raise KeyboardInterrupt

    file = tmp_path / "metrics.jsonl"
    options = {"save_every": 1, "given": examples(20)}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[MetricsFile(file), RichProgress(), Stop()], **options)
    result, _ = train(tmp_path, callbacks=[MetricsFile(file), RichProgress()], **options)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line, entry in zip(lines, result.history, strict=True):
        assert entry.items() <= line.items()
        assert {
            "loss",
            "margin",
            "accuracy",
            "chosen_logprob",
            "rejected_logprob",
            "grad_norm",
            "learning_rate",
        } <= set(line)
        assert line["tokens_per_second"] > 0
