"""What every recipe of SSO shares: queries -> principles -> responses -> pairs -> log-probabilities.

Each stage is on file before the next one starts; a finished one is read and never done again (see `windvane.run`).
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from pydantic import Field

from windvane.data import DataSource
from windvane.engines.chat import steered_prompts
from windvane.engines.protocols import Advance, Scorer, no_progress
from windvane.errors import DataError
from windvane.pairs import MadePairs, PairSettings, make_pairs
from windvane.principles import (
    BankPrinciples,
    PrincipleSettings,
    PromptPrinciples,
    choose_principles,
    features_on_offer,
)
from windvane.recipes.prompt_contrast import prompt_contrast, read_prompt
from windvane.recipes.session import ModelRunConfig, Session
from windvane.sampling import SamplingSettings, sample_responses
from windvane.selection import Selection, SelectionSummary, SteeringFilterSettings, steering_filter
from windvane.types import Dropped, Pair, PairScores, Principle, Query, ResponseSet, ScoredPair, ScoreRequest


class ContrastConfig(ModelRunConfig):
    """What it takes to make contrast pairs."""

    model: str = Field(min_length=1)
    """A local folder, a name that `windvane models list` prints, or a hub name."""
    queries: DataSource
    """The queries x: a file, a folder or a hub data set."""
    max_queries: int | None = Field(default=None, ge=1)
    """Use only the first so many queries; null uses all."""
    shard_size: int = Field(default=64, ge=1)
    """Queries per shard: the most work that a kill can cost, and the most that are batched together."""
    principles: PrincipleSettings = BankPrinciples()
    """Where the good and the bad principle of a query come from."""
    principles_model: str | None = Field(default=None, min_length=1)
    """Model that chooses features and writes principles, where one is asked; null asks the policy itself."""
    sampling: SamplingSettings = SamplingSettings()
    """How responses are drawn."""
    pairs: PairSettings = PairSettings()
    """How responses become pairs, and which are dropped."""


def check_principles(session: Session, config: ContrastConfig) -> None:
    """Say what is wrong with a found prompt before any model is loaded, and whether its gain was proved.

    Raises what `read_prompt` does.
    """
    if not isinstance(config.principles, PromptPrinciples):
        return
    found = read_prompt(config.principles)
    if not found.supported:
        session.run.say(f"the search at {config.principles.from_prompt} did not prove a gain: {found.statement}")


class ContrastSet(NamedTuple):
    """The pairs of one round, scored, and those that did not become one."""

    scored: list[ScoredPair]
    dropped: list[Dropped]


def make_contrast_pairs(
    session: Session,
    stage: str,
    queries: Sequence[Query],
    config: ContrastConfig,
    *,
    sampler: str,
    scorer: str,
    iteration: int = 0,
) -> ContrastSet:
    """Make one contrast pair a query where possible; the model `sampler` writes it, the model `scorer` measures it.

    `iteration` is what the pairs say of where they come from.
    """
    run, bench, _ = session
    size = config.shard_size

    def sample(shard: Sequence[tuple[Query, Principle]]) -> list[ResponseSet]:
        asked, principles = zip(*shard, strict=True)
        return sample_responses(
            asked,
            principles,
            bench.engine(sampler),
            config.sampling,
            seed=config.seed,
            stage=stage,
            advance=run.advance,
        )

    @cache
    def made() -> MadePairs:
        codec = bench.engine(sampler).chat
        return make_pairs(queries, principles, responses, config.pairs, codec=codec, iteration=iteration)

    principles = principles_for(session, stage, queries, config, sampler=sampler)
    contrasts = list(zip(queries, principles, strict=True))
    responses = run.map(
        f"{stage}/responses", contrasts, sample, ResponseSet, shard_size=size, label="responses",
        inputs=bench.identity(sampler),
    )  # fmt: skip
    pairs = run.once(f"{stage}/pairs", lambda: made().pairs, Pair, inputs=responses)
    dropped = run.once(f"{stage}/unpaired", lambda: made().dropped, Dropped, inputs=responses)
    if not pairs:
        reasons = Counter(each.reason for each in dropped)
        raise DataError(
            f"none of {len(queries)} queries gave a usable pair ({_listed(reasons)}). What was sampled is in "
            f"{run.path / stage}; loosen `pairs`, or write principles that set the answers further apart."
        )
    return ContrastSet(score_with(session, f"{stage}/scored", pairs, model=scorer, shard_size=size), dropped)


def principles_for(
    session: Session, stage: str, queries: Sequence[Query], config: ContrastConfig, *, sampler: str
) -> list[Principle]:
    """Return one principle for each query, as a stage of the run; the model `sampler` is asked where none is named."""
    run, bench, _ = session
    settings = config.principles
    if isinstance(settings, PromptPrinciples):
        writer = config.principles_model or config.model
        found = prompt_contrast(session, settings, writer=writer, seed=config.seed)
        return run.once(
            f"{stage}/principles",
            lambda: found.principles(queries),
            Principle,
            inputs=(queries, found.found, found.bad),
        )
    model = config.principles_model or sampler

    def choose(shard: Sequence[Query]) -> list[Principle]:
        return choose_principles(shard, settings, generator=bench.engine(model), seed=config.seed)

    return run.map(
        f"{stage}/principles", queries, choose, Principle, shard_size=config.shard_size, label="principles",
        inputs=(features_on_offer(settings), bench.identity(model)),
    )  # fmt: skip


def score_with(session: Session, stage: str, pairs: Sequence[Pair], *, model: str, shard_size: int) -> list[ScoredPair]:
    """Measure pairs with a model, as a stage of the run."""
    run, bench, _ = session

    def score(shard: Sequence[Pair]) -> list[ScoredPair]:
        return score_pairs(shard, bench.engine(model), advance=run.advance)

    return run.map(
        stage, pairs, score, ScoredPair, shard_size=shard_size, label="log-probabilities", steps_per_item=PROMPTS,
        inputs=bench.identity(model),
    )  # fmt: skip


def score_pairs(pairs: Sequence[Pair], scorer: Scorer, *, advance: Advance = no_progress) -> list[ScoredPair]:
    """Measure (y⁺, y⁻) under x, x⁺ and x⁻, and yᵒ under x⁻: the one pass that filter, loss and statistics share.

    `advance` hears of each pair `PROMPTS` times.
    """
    requests = [request for pair in pairs for request in _requests(pair)]
    results = iter(scorer.score(requests, advance=advance))
    return [
        ScoredPair(
            pair=pair,
            scores=PairScores(
                chosen_plain=plain[0],
                rejected_plain=plain[1],
                chosen_good=good[0],
                rejected_good=good[1],
                chosen_bad=bad[0],
                rejected_bad=bad[1],
                original_bad=bad[2],
            ),
        )
        for pair, plain, good, bad in zip(pairs, results, results, results, strict=True)
    ]


PROMPTS = 3
"""Prompts that a contrast pair is measured under: x, x⁺ and x⁻."""


def _requests(pair: Pair) -> tuple[ScoreRequest, ScoreRequest, ScoreRequest]:
    if pair.principle is None or pair.original is None:
        raise DataError(f"pair {pair.id!r} has no principle or no original response: it is not a contrast pair")
    steered, both = steered_prompts(pair.prompt, pair.principle), (pair.chosen, pair.rejected)
    return (
        ScoreRequest(pair.prompt, both),
        ScoreRequest(steered.good, both),
        ScoreRequest(steered.bad, (*both, pair.original)),
    )


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def select_pairs(
    session: Session, stage: str, scored: Sequence[ScoredPair], settings: SteeringFilterSettings
) -> Selection[ScoredPair]:
    """Filter pairs; what is kept, what is dropped and why, and the thresholds are on file and on screen.

    Raises `DataError` where nothing is left to train on.
    """
    run = session.run
    selection = steering_filter(scored, settings)
    run.once(f"{stage}/kept", lambda: selection.kept, ScoredPair, inputs=scored)
    run.once(f"{stage}/dropped", lambda: selection.dropped, Dropped, inputs=scored)
    run.once(f"{stage}/selection", lambda: [selection.summary()], SelectionSummary, inputs=scored)
    if not selection.kept:
        reasons = _listed(Counter(record.reason for record in selection.dropped))
        raise DataError(
            f"the filter kept none of {len(scored)} pairs ({reasons}); see {run.path / stage / 'dropped.jsonl'}. "
            "Turn a step of `selection` off, or give more queries."
        )
    session.reporter.selection(selection.summary())
    return selection
