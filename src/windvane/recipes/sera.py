"""Self-Reviewing and Alignment (arXiv:2410.09362): the method's story, top to bottom.

Round 1 trains on all offline pairs. Every later round asks the policies of the two rounds before it what they think of
each pair, by the margin of their implicit rewards: it keeps the pairs that they are surest of, adds pairs made of the
policy's own samples, and trains on both. No log-probability is computed twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from windvane.bootstrapping import added_id
from windvane.data import OfflinePair, load_queries
from windvane.engines.workbench import BenchEngine
from windvane.errors import DataError
from windvane.evaluation.policy import Evaluation
from windvane.recipes.compare import compare_policies
from windvane.recipes.offline import (
    LogprobLedger,
    OfflineData,
    distinct_queries,
    logprob_counts,
    measure_reference,
    read_offline,
)
from windvane.recipes.report import write_summary
from windvane.recipes.sera_config import SeraConfig
from windvane.recipes.sera_round import Round, first_review, review_pairs, round_numbers, train_round
from windvane.recipes.session import open_session
from windvane.types import Query


class SeraResult(NamedTuple):
    """What a run made."""

    policy: Path
    """Folder of the aligned model, for transformers, vLLM and the like."""
    run: Path
    rounds: list[Round]
    evaluation: Evaluation | None


def run_sera(config: SeraConfig, *, console: Console | None = None) -> SeraResult:
    """Align a model on offline pairs that it reviews itself; see `run_sso` for consoles, errors and resuming."""
    may_change = frozenset({"training.guards"})  # limits that stop a run change no result
    with open_session(config, command="sera", may_change=may_change, console=console) as session:
        run, _, reporter = session
        asked = config.evaluation
        given = load_queries(asked.queries, limit=asked.max_queries) if asked and asked.queries else []
        data = read_offline(session, config, avoid=given, check=partial(check_ahead, config, given))
        config.selection.check_sources(data.train)
        ledger = LogprobLedger(session, shard_size=config.shard_size)
        measure_reference(config, data, ledger)
        policies, rounds = [config.model], list[Round]()
        for number in range(1, config.rounds + 1):
            review = (
                first_review(data) if number == 1 else review_pairs(session, number, data, config, ledger, policies)
            )
            rounds.append(train_round(session, number, review, data, config, ledger, policies))
            policies.append(str(rounds[-1].policy.folder))
            reporter.rounds([round_numbers(each) for each in rounds])
        evaluation = None
        if asked is not None:
            queries = given or distinct_queries(data.held_out)[: asked.max_queries]
            evaluation = compare_policies(
                session, queries, asked, base=config.model, policy=policies[-1],
                seed=config.seed, shard_size=config.shard_size,
            ).evaluation  # fmt: skip
        result = SeraResult(Path(policies[-1]), run.path, rounds, evaluation)
        write_summary(
            run, "sera", model=config.model, seed=config.seed, results=summary_of(result, config, data, run.counts())
        )
        reporter.places({"aligned model": result.policy, "run directory": run.path})
        return result


def check_ahead(
    config: SeraConfig, queries: Sequence[Query], pairs: Sequence[OfflinePair], engine: BenchEngine
) -> None:
    """Refuse, before round 1 is trained, what only a later stage would stumble over. Raises `DataError`."""
    prompts, names = [pair.prompt for pair in pairs], {pair.id for pair in pairs}
    taken = [name for name in names for number in range(2, config.rounds + 1) if added_id(name, number) in names]
    if config.bootstrapping is not None and taken:
        raise DataError(
            f"the pairs have the id {min(taken)!r} and, of an earlier run it seems, {added_id(min(taken), 2)!r} or the "
            "like, which is what a pair that a round adds would be called: give these pairs other ids"
        )
    if config.bootstrapping is not None:
        most = config.bootstrapping.sampling.max_new_tokens
        engine.check_room(prompts, most, setting="bootstrapping.sampling.max_new_tokens")
        longest = max(len(engine.chat.prompt_ids(prompt)) for prompt in prompts)
        if config.training.max_length is not None and longest + most > config.training.max_length:
            raise DataError(
                f"a prompt of {longest} tokens and a sample of up to bootstrapping.sampling.max_new_tokens ({most}) "
                f"make a pair longer than training.max_length ({config.training.max_length}): lower the one or raise "
                "the other"
            )
    if config.evaluation is not None:
        asked = [query.messages for query in queries] or prompts
        engine.check_room(asked, config.evaluation.max_new_tokens, setting="evaluation.max_new_tokens")


def summary_of(result: SeraResult, config: SeraConfig, data: OfflineData, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return what ``summary.json`` says of a run beyond what it says of any."""
    last = result.rounds[-1].review  # of the other rounds, `rounds` tells
    dropped = Counter(record.reason for record in (*data.left_out, *last.dropped))
    unpaired = Counter(record.reason for record in (last.added.dropped if last.added else ()))
    return {
        "counts": {
            "pairs_made": len(data.train) + len(data.held_out) + len(data.left_out),
            "pairs_kept": len(last.kept),
            "pairs_held_out": len(data.held_out),
            "pairs_added": len(last.added.pairs) if last.added else 0,
            "dropped": dict(dropped.most_common()),
            "not_added": dict(unpaired.most_common()),
            **logprob_counts(counts),
        },
        "reference": config.reference,
        "start": config.start,
        "policy": result.policy,
        "flipped": len(data.flipped),
        "rounds": [round_numbers(each) for each in result.rounds],
        "evaluation": result.evaluation,
    }
