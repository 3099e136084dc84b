"""What every recipe on offline preference pairs shares: data -> token ids -> log-probabilities -> training -> accuracy.

A log-probability belongs to a model, a prompt and a response. It is computed once in a run and read from file
afterwards, whether a reference, a margin or an accuracy asks for it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field, field_validator

from windvane import training
from windvane.data import OfflinePair, PreferenceSource, read_preferences, split_queries
from windvane.data.splitting import spoken_words
from windvane.engines.chat import ChatFormat
from windvane.engines.workbench import BenchEngine
from windvane.errors import DataError
from windvane.evaluation.reward_accuracy import RewardAccuracy, reward_accuracy
from windvane.losses import BaseLossSettings, DpoSettings
from windvane.recipes.policy import TrainedPolicy, train_stage
from windvane.recipes.session import ModelRunConfig, Session
from windvane.selection import (
    MarginFilterSettings,
    NoiseSettings,
    PairMargin,
    RewardForm,
    Selection,
    SelectionSummary,
    ensembled,
    flip_labels,
    implicit_margin,
)
from windvane.selection.implicit_margin import needs_reference
from windvane.shares import share_of
from windvane.training.settings import TrainingSettings
from windvane.types import (
    Completion,
    Dropped,
    Logprob,
    Message,
    Pair,
    PromptScores,
    Query,
    ReferencedPair,
    ScoreRequest,
    SideScores,
)

ROUNDING = 2e-4
"""Nats by which two float32 measurements of one response in different batches may differ."""
RESPONSES_A_ROW = 8
"""Most responses that are measured in one row, behind their common prompt."""

Check = Callable[[Sequence[OfflinePair], BenchEngine], None]
"""Refuses pairs that a later stage could not work with, before the first one works."""

Said = tuple[tuple[Message, ...], tuple[int, ...]]
"""A prompt, and a response to it as token ids."""


class OfflineConfig(ModelRunConfig):
    """What every run on offline preference pairs depends on."""

    model: str = Field(min_length=1)
    """A local folder, a name that `windvane models list` prints, or a hub name."""
    preferences: PreferenceSource
    """The preference pairs, in any format that `windvane.data` reads."""
    max_pairs: int | None = Field(default=None, ge=1)
    """Use only the first so many pairs; null uses all."""
    holdout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the prompts whose pairs are set aside; the accuracy of the implicit reward is measured on them."""
    noise: NoiseSettings | None = None
    """For study: labels that are turned round before training. Null leaves them as they are."""
    shard_size: int = Field(default=64, ge=1)
    """Prompts per shard: the most work that a kill can cost, and the most that are batched together."""
    loss: BaseLossSettings = DpoSettings()
    """Any loss on pairs; those of SSO need principles, and so `windvane sso`."""
    training: TrainingSettings = TrainingSettings()
    """How the policy is trained."""

    @field_validator("loss", mode="before")
    @classmethod
    def _loss_fits(cls, loss: Any) -> Any:
        name = loss.get("type") if isinstance(loss, dict) else getattr(loss, "type", None)
        if name in ("sso", "sso_generator"):
            raise ValueError(f"loss.type {name} needs principles, which a preference file has not: use `windvane sso`")
        return loss


class OfflineData(NamedTuple):
    """The offline pairs as token ids; no prompt is in both parts."""

    train: list[Pair]
    held_out: list[Pair]
    flipped: frozenset[str]
    """Ids of the training pairs whose labels were turned round on purpose."""
    left_out: list[Dropped]
    """Rows that are in neither part: unusable, there twice, or of a prompt to evaluate on."""


class LogprobLedger:
    """The log-probabilities that a run has on file, by model, prompt and response; each is computed once."""

    def __init__(self, session: Session, *, shard_size: int) -> None:
        self._session, self._shard_size = session, shard_size
        self._known: dict[str, dict[Said, Logprob]] = {}

    def measure(self, stage: str, model: str, wanted: Iterable[tuple[tuple[Message, ...], Completion]]) -> None:
        """Measure what is not known yet, as a stage of the run: a prompt once for all its responses."""
        run, bench, _ = self._session
        known = self._known.setdefault(model, {})
        requests = _requests((prompt, said) for prompt, said in wanted if (prompt, said.token_ids) not in known)
        if not requests:
            return

        def score(shard: Sequence[ScoreRequest]) -> list[PromptScores]:
            run.count("logprobs_computed", sum(len(request.responses) for request in shard))
            scores = bench.engine(model).score(shard, advance=run.advance)
            return [PromptScores(logprobs=each) for each in scores]

        found = run.map(
            stage, requests, score, PromptScores, shard_size=self._shard_size, label="log-probabilities",
            inputs=bench.identity(model),
        )  # fmt: skip
        for request, scores in zip(requests, found, strict=True):
            for response, logprob in zip(request.responses, scores.logprobs, strict=True):
                known[request.messages, response.token_ids] = logprob

    def of(self, model: str, prompt: tuple[Message, ...], response: Completion) -> Logprob:
        """Return one that was measured; a KeyError is a mistake of the recipe."""
        return self._known[model][prompt, response.token_ids]

    def sides(self, model: str, pair: Pair) -> SideScores:
        """Return those of a pair's two responses."""
        return SideScores(
            chosen=self.of(model, pair.prompt, pair.chosen), rejected=self.of(model, pair.prompt, pair.rejected)
        )

    def read(self, count: int) -> None:
        """Count log-probabilities that the work of a stage reads; beyond those computed, each was spared a pass."""
        self._session.run.count("logprobs_read", count)


class Panel(NamedTuple):
    """The models behind a margin: the last policy, the one before it, and the reference, where they are asked."""

    last: str
    before: str | None
    reference: str | None

    @property
    def members(self) -> list[str]:
        """Those that are asked."""
        return [model for model in self if model is not None]


def read_offline(
    session: Session, config: OfflineConfig, *, avoid: Sequence[Query] = (), check: Check | None = None
) -> OfflineData:
    """Read the pairs, tokenise them with the model's own tokenizer, set the held-out ones apart, flip what is asked.

    Pairs whose prompt is one of `avoid` are left out. `check` may look at pairs and model before anything else is done
    with them. Raises `DataError` where nothing is left to train on.
    """
    run = session.run
    given, dropped = read_preferences(config.preferences, limit=config.max_pairs)
    pairs = tokenised(session, given, model=config.model, check=check)
    train, held_out, asked = _split(pairs, config, {spoken_words(query) for query in avoid})
    left_out = keep_left_out(session, [*dropped, *asked])
    if config.noise is None:
        return OfflineData(train, held_out, frozenset(), left_out)
    noisy = flip_labels(train, config.noise)
    run.once(
        "flipped",
        lambda: [Dropped(id=name, reason="flipped") for name in sorted(noisy.flipped)],
        Dropped,
        inputs=(pairs, config.noise),
    )
    return OfflineData(noisy.pairs, held_out, noisy.flipped, left_out)


def keep_left_out(session: Session, dropped: Sequence[Dropped]) -> list[Dropped]:
    """Put on file which rows of the data no stage works with, and why; say how many."""
    left_out = session.run.once("left-out", lambda: dropped, Dropped, inputs=list(dropped))
    if left_out:
        reasons = Counter(record.reason for record in left_out).most_common()
        session.run.say("left out: " + ", ".join(f"{count} {reason}" for reason, count in reasons))
    return left_out


def tokenised(session: Session, given: Sequence[OfflinePair], *, model: str, check: Check | None = None) -> list[Pair]:
    """Return the pairs as a model's token ids, as a stage of the run."""
    run, bench, _ = session

    def make() -> list[Pair]:
        chat = bench.engine(model).chat
        if check is not None:
            check(given, bench.engine(model))
        return [as_token_ids(pair, chat) for pair in given]

    return run.once("tokenised-pairs", make, Pair, inputs=(given, bench.identity(model)))


def as_token_ids(pair: OfflinePair, chat: ChatFormat) -> Pair:
    """Return a pair whose responses are the token ids that will be scored and trained on."""
    plain = training.encode_pair(chat, pair).views["plain"]

    def completion(text: str, ids: Sequence[int], finish: object) -> Completion:
        return Completion(text=text, token_ids=tuple(ids), finish="length" if finish == "length" else "stop")

    return Pair(
        id=pair.id,
        prompt=pair.prompt,
        chosen=completion(pair.chosen, plain.chosen, pair.extra.get("chosen_finish")),
        rejected=completion(pair.rejected, plain.rejected, pair.extra.get("rejected_finish")),
        source=pair.source,
    )


def _split(
    pairs: Sequence[Pair], config: OfflineConfig, avoid: set[str]
) -> tuple[list[Pair], list[Pair], list[Dropped]]:
    """Part the pairs by their prompts: to train on, to measure on, and those whose prompt is in `avoid`."""
    words = {pair.id: spoken_words(query_of(pair)) for pair in pairs}
    free = [pair for pair in pairs if words[pair.id] not in avoid]
    if not free:
        raise DataError(
            f"every prompt of {config.preferences.path} is among the evaluation queries, and those are not trained on: "
            "give other pairs, or other evaluation.queries"
        )
    prompts = {words[pair.id]: query_of(pair) for pair in reversed(free)}
    count = share_of(config.holdout, len(prompts))
    if config.holdout and not 0 < count < len(prompts):
        raise DataError(
            f"holdout: {config.holdout:g} of {len(prompts)} prompts leaves {len(prompts) - count} to train on and "
            f"{count} to measure on: give more pairs, or another holdout"
        )
    apart = {
        spoken_words(query) for query in split_queries(list(prompts.values()), holdout=count, seed=config.seed).holdout
    }
    train = [pair for pair in free if words[pair.id] not in apart]
    held_out = [pair for pair in free if words[pair.id] in apart]
    asked = [Dropped(id=pair.id, reason="evaluation_prompt") for pair in pairs if words[pair.id] in avoid]
    return train, held_out, asked


def query_of(pair: Pair) -> Query:
    """Return the query that a pair answers, under the pair's id."""
    return Query(id=pair.id, messages=pair.prompt, source=pair.source)


def distinct_queries(pairs: Iterable[Pair]) -> list[Query]:
    """Return each prompt once, under the id of the first pair that has it."""
    found: dict[tuple[Message, ...], Query] = {}
    for pair in pairs:
        found.setdefault(pair.prompt, query_of(pair))
    return list(found.values())


def both_sides(pairs: Iterable[Pair]) -> Iterator[tuple[tuple[Message, ...], Completion]]:
    """Yield what `measure` is to measure of pairs."""
    for pair in pairs:
        yield pair.prompt, pair.chosen
        yield pair.prompt, pair.rejected


def _requests(wanted: Iterable[tuple[tuple[Message, ...], Completion]]) -> list[ScoreRequest]:
    by_prompt: dict[tuple[Message, ...], dict[tuple[int, ...], Completion]] = {}
    for prompt, response in wanted:
        by_prompt.setdefault(prompt, {}).setdefault(response.token_ids, response)
    return [
        ScoreRequest(prompt, responses[start : start + RESPONSES_A_ROW])
        for prompt, found in by_prompt.items()
        for responses in [tuple(found.values())]
        for start in range(0, len(responses), RESPONSES_A_ROW)
    ]


def pair_margins(
    session: Session,
    stage: str,
    pairs: Sequence[Pair],
    ledger: LogprobLedger,
    panel: Panel,
    *,
    form: RewardForm,
    gamma: float = 1.0,
) -> list[PairMargin]:
    """Return the ensembled implicit reward margin of each pair, as a stage of the run, from scores that are on file."""

    def one(pair: Pair) -> PairMargin:
        reference = None if panel.reference is None else ledger.sides(panel.reference, pair)
        last = implicit_margin(form, ledger.sides(panel.last, pair), reference)
        before = None
        if panel.before is not None:
            before = implicit_margin(form, ledger.sides(panel.before, pair), reference)
        margin = ensembled(last, before, gamma=gamma)
        return PairMargin(id=pair.id, source=pair.source, margin=margin, last=last, before=before)

    def make() -> list[PairMargin]:
        ledger.read(2 * len(panel.members) * len(pairs))
        return [one(pair) for pair in pairs]

    scores = [[ledger.sides(model, pair) for pair in pairs] for model in panel.members]
    return session.run.once(stage, make, PairMargin, inputs=(pairs, scores, form, gamma))


def check_moved(margins: Sequence[PairMargin], settings: MarginFilterSettings) -> None:
    """Refuse margins that are nothing but rounding around 0: the policy is its reference. Raises `DataError`."""
    if not settings.keeps_all and all(abs(each.margin) <= ROUNDING for each in margins):
        largest = max(abs(each.margin) for each in margins)
        raise DataError(
            f"all {len(margins)} margins are 0 but for rounding (at most {largest:.1g}), so none of the pairs can "
            "be told from another: policy and reference are the same model, or training has not moved the policy (is "
            "its learning rate too small?)"
        )


def keep_margins(session: Session, place: str, margins: Sequence[PairMargin], selection: Selection[PairMargin]) -> None:
    """Put on file what a margin kept, what it dropped and why, and the thresholds; show it, too."""
    run, inputs = session.run, list(margins)
    run.once(f"{place}/kept", lambda: selection.kept, PairMargin, inputs=inputs)
    run.once(f"{place}/dropped", lambda: selection.dropped, Dropped, inputs=inputs)
    run.once(f"{place}/selection", lambda: [selection.summary()], SelectionSummary, inputs=inputs)
    session.reporter.selection(selection.summary())


def measure_reference(config: OfflineConfig, data: OfflineData, ledger: LogprobLedger) -> None:
    """Measure under the first model, in one go, what loss and implicit reward will compare with it."""
    in_training = config.loss.needs_reference and config.training.reference == "scored"
    compared = needs_reference(config.loss.implicit_reward)
    pairs = [*(data.train if in_training else ()), *(data.held_out if compared else ())]
    ledger.measure("reference", config.model, both_sides(pairs))


def train_on(
    session: Session,
    place: str,
    pairs: Sequence[Pair],
    config: OfflineConfig,
    ledger: LogprobLedger,
    *,
    start: str,
    reference: str,
    seed: int,
) -> TrainedPolicy:
    """Train on pairs, with the log-probabilities of `reference` from file; both are kept beside the policy.

    `place` is what the stages' names begin with: nothing, or ``round-2/``.
    """
    scored = config.loss.needs_reference and config.training.reference == "scored"
    if scored:
        ledger.measure(f"{place}reference", reference, both_sides(pairs))
    given = [ReferencedPair(pair=pair, reference=ledger.sides(reference, pair) if scored else None) for pair in pairs]

    def make() -> list[ReferencedPair]:
        ledger.read(2 * len(pairs) * scored)
        return given

    session.run.once(f"{place}training-pairs", make, ReferencedPair, inputs=given)
    settings = config.training if start == reference else config.training.away_from_reference()
    return train_stage(
        session, f"{place}policy", given, training.encode_referenced_pair, config.loss, settings,
        start=start, seed=seed,
    )  # fmt: skip


def held_out_accuracy(
    session: Session, place: str, pairs: Sequence[Pair], config: OfflineConfig, ledger: LogprobLedger, *, policy: str
) -> RewardAccuracy | None:
    """Return how often a policy's implicit reward prefers the chosen response of held-out pairs; None without any."""
    if not pairs:
        return None
    form = config.loss.implicit_reward
    panel = Panel(policy, None, config.model if needs_reference(form) else None)
    ledger.measure(f"{place}held-out", policy, both_sides(pairs))
    return reward_accuracy(pair_margins(session, f"{place}held-out-margins", pairs, ledger, panel, form=form))


def logprob_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many log-probabilities a run computed, and how often it read one again instead of computing it."""
    computed, read = counts.get("logprobs_computed", 0), counts.get("logprobs_read", 0)
    return {"logprobs_computed": computed, "logprobs_reused": max(0, read - computed)}
