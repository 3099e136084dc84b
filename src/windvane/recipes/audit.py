"""An audit of preference data: what a policy's implicit reward thinks of each pair. No training."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, model_validator
from rich.console import Console

from windvane.data import PreferenceSource, read_preferences, write_offline_preferences
from windvane.errors import DataError
from windvane.evaluation.reward_accuracy import RewardAccuracy, reward_accuracy
from windvane.recipes.offline import (
    LogprobLedger,
    Panel,
    both_sides,
    check_moved,
    keep_left_out,
    keep_margins,
    pair_margins,
    tokenised,
)
from windvane.recipes.report import write_summary
from windvane.recipes.session import ModelRunConfig, open_session
from windvane.selection import MarginFilterSettings, PairMargin, RewardForm, Selection, select_by_margin
from windvane.selection.implicit_margin import needs_reference


class AuditConfig(ModelRunConfig):
    """Everything that a run of `windvane select --by margin` depends on."""

    preferences: PreferenceSource
    """The preference pairs, in any format that `windvane.data` reads."""
    max_pairs: int | None = Field(default=None, ge=1)
    """Use only the first so many pairs; null uses all."""
    policy: str = Field(min_length=1)
    """The model whose implicit reward judges: a local folder, a name of `windvane models list`, or a hub name."""
    reference: str | None = Field(default=None, min_length=1)
    """The model that it was trained from, with the same tokenizer; null with a reward that has no reference."""
    selection: MarginFilterSettings = MarginFilterSettings()
    """Which pairs are kept."""
    shard_size: int = Field(default=64, ge=1)
    """Prompts per shard: the most work that a kill can cost, and the most that are batched together."""

    @model_validator(mode="after")
    def _reference_fits(self) -> Self:
        if needs_reference(self.reward) and self.reference is None:
            raise ValueError(
                f"a reward of the form {self.reward} compares the policy with a reference: set `reference` to the "
                "model that it was trained from, or selection.reward to mean_logp"
            )
        if not needs_reference(self.reward) and self.reference is not None:
            raise ValueError(f"reference has no effect, as a reward of the form {self.reward} has none: leave it out")
        return self

    @property
    def reward(self) -> RewardForm:
        """Form of the implicit reward."""
        return "log_ratio" if self.selection.reward == "auto" else self.selection.reward


class AuditResult(NamedTuple):
    """What a run made."""

    pairs: Path
    """The kept pairs, as a preference file with every other column of the data, and the margin."""
    run: Path
    margins: list[PairMargin]
    selection: Selection[PairMargin]
    agreement: RewardAccuracy
    """How often the policy prefers the response that is labelled as chosen."""


def run_audit(config: AuditConfig, *, console: Console | None = None) -> AuditResult:
    """Measure the margin of every pair, and part the pairs by it; see `run_sso` for consoles and errors."""
    check_vocabularies(config)
    with open_session(config, command="select --by margin", console=console) as session:
        run, _, reporter = session
        given, left_out = read_preferences(config.preferences, limit=config.max_pairs)
        keep_left_out(session, left_out)
        pairs = tokenised(session, given, model=config.policy)
        config.selection.check_sources(pairs)
        ledger = LogprobLedger(session, shard_size=config.shard_size)
        panel = Panel(config.policy, None, config.reference)
        for name, model in panel._asdict().items():
            if model is not None:
                ledger.measure(f"scores/{name}", model, both_sides(pairs))
        margins = pair_margins(session, "margins", pairs, ledger, panel, form=config.reward)
        check_moved(margins, config.selection)
        selection = select_by_margin(margins, config.selection)
        keep_margins(session, "selection", margins, selection)
        path, columns = run.path / "pairs.jsonl", {each.id: {"margin": each.margin} for each in selection.kept}
        if run.is_main:
            write_offline_preferences(path, [pair for pair in given if pair.id in columns], columns=columns)
        agreement, summary = reward_accuracy(margins), selection.summary()
        reporter.audit(agreement, margins, pairs)
        dropped_counts = {**Counter(record.reason for record in left_out), **summary.dropped}
        counts = {
            "pairs_made": summary.pairs + len(left_out), "pairs_kept": summary.kept, "dropped": dropped_counts
        }  # fmt: skip
        results = {"counts": counts, "pairs": path, "thresholds": summary.thresholds, "agreement": agreement}
        write_summary(run, "select", model=config.policy, seed=config.seed, results=results)
        dropped = run.path / "selection" / "dropped.jsonl"
        reporter.places(
            {"kept pairs": path, "dropped pairs, with reasons": dropped, "every margin": run.path / "margins.jsonl"}
        )
        return AuditResult(path, run.path, margins, selection, agreement)


def check_vocabularies(config: AuditConfig) -> None:
    """Refuse a reference whose token ids mean something else than the policy's. Raises `DataError`."""
    if config.reference is None or config.reference == config.policy:
        return
    from windvane.engines.models import load_chat  # transformers: not before it is needed

    tokenizers = [load_chat(model, config.engine).tokenizer for model in (config.policy, config.reference)]
    mine, other = (tokenizer.get_vocab() for tokenizer in tokenizers)
    if mine != other:
        different = sum(other.get(token) != number for token, number in mine.items())
        raise DataError(
            f"the reference {config.reference} has another tokenizer than the policy {config.policy} ({different} of "
            f"{len(mine)} tokens have another id or none), so their log-probabilities cannot be compared: give the "
            "model that the policy was trained from"
        )
    if tokenizers[0].chat_template != tokenizers[1].chat_template:
        raise DataError(
            f"the reference {config.reference} has another chat template than the policy {config.policy}, so they "
            "would read different prompts: set engine.chat_template to one jinja file for both"
        )
