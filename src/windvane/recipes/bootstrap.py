"""SeRA's second source of pairs, as stages of a run: the policy's own samples, ranked by its implicit reward."""

from collections import Counter
from collections.abc import Iterator, Sequence

from windvane.bootstrapping import (
    BootstrapPick,
    BootstrapSettings,
    RankedSamples,
    best_against_worst,
    fit_to_rank,
    sample_candidates,
)
from windvane.recipes.offline import LogprobLedger, Panel
from windvane.recipes.sera_config import SeraConfig
from windvane.recipes.session import Session
from windvane.seeds import derive_seed
from windvane.selection import ensembled, implicit_reward
from windvane.types import Completion, Message, Query, Samples

Candidates = list[tuple[Query, tuple[Completion, ...]]]
"""Queries, and the responses to each that may stand in a pair."""


def bootstrap(
    session: Session,
    number: int,
    queries: Sequence[Query],
    config: SeraConfig,
    ledger: LogprobLedger,
    panel: Panel,
    *,
    count: int,
) -> BootstrapPick:
    """Make at most `count` pairs in round `number`: sample from the last policy, measure, best against worst.

    What was sampled, measured and made, and why a prompt gave no pair, is on file under ``round-<number>``.
    """
    settings, place = config.bootstrapping, f"round-{number}"
    assert settings is not None
    asked = _some(queries, settings, seed=derive_seed(config.seed, place))
    candidates = _sample(session, place, asked, config, settings, model=panel.last)
    for model in dict.fromkeys(panel.members):
        role = next(name for name, member in panel._asdict().items() if member == model)
        ledger.measure(f"{place}/candidates-{role}", model, _sayings(candidates))
    ranked = [_ranked(query, responses, config, ledger, panel) for query, responses in candidates]

    def make() -> list[BootstrapPick]:
        ledger.read(len(panel.members) * sum(len(responses) for _, responses in candidates))
        return [best_against_worst(ranked, count=count, length_control=settings.length_control, iteration=number)]

    (pick,) = session.run.once(f"{place}/bootstrapped", make, BootstrapPick, inputs=(ranked, count, settings))
    wanted = min(count, len(asked))
    if len(pick.pairs) < wanted:
        session.run.say(
            f"round {number} adds {len(pick.pairs)} of the {wanted} pairs that it could: {_shortfall(pick)}"
        )
    return pick


def _shortfall(pick: BootstrapPick) -> str:
    """Say why prompts gave no pair, and the way out of the usual reason."""
    counts = Counter(record.reason for record in pick.dropped)
    reasons = ", ".join(f"{reason} {number}" for reason, number in counts.most_common())
    way_out = (
        "; too_few prompts have fewer than two different samples that end within "
        "bootstrapping.sampling.max_new_tokens, are not empty and do not loop: raise that, or bootstrapping.samples"
    )
    return f"prompts without a pair: {reasons}{way_out if counts['too_few'] else ''}"


def _some(queries: Sequence[Query], settings: BootstrapSettings, *, seed: int) -> list[Query]:
    """Return the queries to sample for, in their order; which ones depends on their ids and the seed."""
    if settings.max_prompts is None or settings.max_prompts >= len(queries):
        return list(queries)
    drawn = sorted(queries, key=lambda query: (derive_seed(seed, query.id), query.id))[: settings.max_prompts]
    chosen = {query.id for query in drawn}
    return [query for query in queries if query.id in chosen]


def _sample(
    session: Session,
    place: str,
    queries: Sequence[Query],
    config: SeraConfig,
    settings: BootstrapSettings,
    *,
    model: str,
) -> Candidates:
    run, bench, _ = session

    def sample(shard: Sequence[Query]) -> list[Samples]:
        return sample_candidates(
            shard, bench.engine(model), settings, seed=config.seed, stage=place, advance=run.advance
        )

    samples = run.map(
        f"{place}/samples", queries, sample, Samples, shard_size=config.shard_size, label="samples",
        inputs=(bench.identity(model), settings), steps_per_item=settings.samples,
    )  # fmt: skip
    return [
        (query, fit_to_rank(each, max_repetition=settings.max_repetition))
        for query, each in zip(queries, samples, strict=True)
    ]


def _sayings(candidates: Candidates) -> Iterator[tuple[tuple[Message, ...], Completion]]:
    for query, responses in candidates:
        yield from ((query.messages, response) for response in responses)


def _ranked(
    query: Query, responses: tuple[Completion, ...], config: SeraConfig, ledger: LogprobLedger, panel: Panel
) -> RankedSamples:
    def reward(model: str, response: Completion) -> float:
        reference = None if panel.reference is None else ledger.of(panel.reference, query.messages, response)
        return implicit_reward(config.reward, ledger.of(model, query.messages, response), reference)

    rewards = tuple(
        ensembled(
            reward(panel.last, response),
            None if panel.before is None else reward(panel.before, response),
            gamma=config.selection.gamma,
        )
        for response in responses
    )
    return RankedSamples(query, responses, rewards)
