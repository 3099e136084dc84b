"""Pairs per second of preference training: windvane against TRL's DPOTrainer, on the same pairs in one run.

    python benchmarks/training_step.py --model MODEL --pairs 32 --prompt-tokens 264 --response-tokens 121

Every contestant trains the same model on the same random token ids for one epoch of DPO, in a process of its own, so
that peak memory is its own. The time includes the scoring of the reference, and leaves out loading the model.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Job(NamedTuple):
    """What is trained on."""

    model: str
    pairs: int
    prompt_tokens: int
    response_tokens: int
    micro_batch: int
    pairs_per_step: int
    bf16: bool


class Outcome(NamedTuple):
    """What one contestant needed."""

    seconds: float
    peak_gib: float
    first_loss: float


def rows(job: Job, vocabulary: int) -> list[dict[str, list[int]]]:
    """Return random pairs whose lengths lie within a third of the mean."""
    rng = random.Random(0)

    def ids(mean: int) -> list[int]:
        return [rng.randrange(10, vocabulary) for _ in range(rng.randint(max(1, mean * 2 // 3), mean * 4 // 3))]

    return [
        {"prompt": ids(job.prompt_tokens), "chosen": ids(job.response_tokens), "rejected": ids(job.response_tokens)}
        for _ in range(job.pairs)
    ]


def load(job: Job) -> tuple[Any, Any]:
    """Return model and tokenizer, the model in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(job.model)


def arguments(job: Job, folder: str) -> dict[str, Any]:
    """Return what both trainers are told."""
    import torch

    return {
        "output_dir": folder,
        "per_device_train_batch_size": job.micro_batch,
        "gradient_accumulation_steps": job.pairs_per_step // job.micro_batch,
        "num_train_epochs": 1,
        "learning_rate": 5e-7,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": job.bf16,
        "use_cpu": not torch.cuda.is_available(),
    }


def windvane(job: Job, layout: str) -> Outcome:
    """Train with windvane; the reference is scored once."""
    from transformers import TrainingArguments

    from windvane import PreferenceTrainer, losses
    from windvane.training import EncodedPair, TrainerOptions, TrainingExample

    model, tokenizer = load(job)
    examples = [
        TrainingExample(str(number), {"plain": EncodedPair(row["prompt"], row["chosen"], row["rejected"])})
        for number, row in enumerate(rows(job, model.config.vocab_size))
    ]
    objective = losses.make_objective(losses.DpoSettings(beta=0.1))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        trainer = PreferenceTrainer(
            model,
            TrainingArguments(**arguments(job, folder)),
            examples,
            objective=objective,
            processing_class=tokenizer,
            options=TrainerOptions(layout=layout),  # type: ignore[arg-type]
        )
        trainer.train()
        return measured(trainer, time.perf_counter() - start)


def trl(job: Job, precompute: bool) -> Outcome:
    """Train with TRL's DPOTrainer, with the reference computed along the way or beforehand."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # the rows are token ids already

    model, tokenizer = load(job)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    data = Dataset.from_list(
        [
            {"prompt_ids": row["prompt"], "chosen_ids": row["chosen"], "rejected_ids": row["rejected"]}
            for row in rows(job, model.config.vocab_size)
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        config = DPOConfig(
            **arguments(job, folder),
            beta=0.1,
            max_length=None,
            gradient_checkpointing=False,
            precompute_ref_log_probs=precompute,
        )
        trainer = Tokenised(model, args=config, train_dataset=data, processing_class=tokenizer)
        trainer.train()
        return measured(trainer, time.perf_counter() - start)


def measured(trainer: Any, seconds: float) -> Outcome:
    """Return the outcome; the first loss is ln 2 wherever a trainer does what it should."""
    import torch

    first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Outcome(seconds, peak / 2**30, first)


CONTESTANTS: dict[str, Callable[[Job], Outcome]] = {
    "windvane, shared prompts, reference scored once": lambda job: windvane(job, "auto"),
    "windvane, plain rows, reference scored once": lambda job: windvane(job, "plain"),
    "TRL DPOTrainer, precompute_ref_log_probs": lambda job: trl(job, precompute=True),
    "TRL DPOTrainer, default": lambda job: trl(job, precompute=False),
}


def run_apart(name: str, job: Job) -> Outcome:
    """Run one contestant in a fresh process."""
    command = [sys.executable, __file__, "--contestant", name, "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return Outcome(*json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Parse the arguments, run every contestant, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub name of a causal language model")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=128, help="mean tokens of a prompt")
    parser.add_argument("--response-tokens", type=int, default=64, help="mean tokens of a response")
    parser.add_argument("--micro-batch", type=int, default=4, help="pairs in one forward pass")
    parser.add_argument("--pairs-per-step", type=int, default=8)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant:
        print(json.dumps(CONTESTANTS[given.contestant](Job(*json.loads(given.job)))))
        return
    if not given.model:
        parser.error("--model is needed: the folder or the hub name of a causal language model")
    model = str(Path(given.model).resolve()) if Path(given.model).exists() else given.model
    sizes = (given.pairs, given.prompt_tokens, given.response_tokens, given.micro_batch, given.pairs_per_step)
    job = Job(model, *sizes, given.bf16)
    outcomes = {name: run_apart(name, job) for name in CONTESTANTS}
    best = outcomes[next(iter(CONTESTANTS))]
    table = Table(title=f"{job.pairs} pairs, prompts of {job.prompt_tokens}, responses of {job.response_tokens} tokens")
    for column in ("trainer", "pairs/s", "windvane is faster by", "peak GiB", "first loss"):
        table.add_column(column, justify="left" if column == "trainer" else "right")
    for name, outcome in outcomes.items():
        ratio = outcome.seconds / best.seconds
        numbers = (f"{job.pairs / outcome.seconds:.2f}", f"{ratio:.2f}x", f"{outcome.peak_gib:.2f}")
        table.add_row(name, *numbers, f"{outcome.first_loss:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
