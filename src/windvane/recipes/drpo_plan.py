"""What a prompt search can take at most, before its first call; and the part of a budget that the proof needs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from windvane.engines.budget import Budget, BudgetSettings, Planned, Spend
from windvane.engines.metering import Usage
from windvane.engines.server_settings import ServerSettings
from windvane.errors import DataError
from windvane.judging import DynamicJudgeSettings
from windvane.prompt_search.demonstrations import Demonstration
from windvane.prompt_search.racing import RacingSettings
from windvane.recipes.drpo_config import DrpoConfig, ModelProposer, PaperSearch
from windvane.reporting.cells import counted
from windvane.types import Query

_PER_REQUEST = 4096
"""Bytes of our own words in a request to a judge or an optimizer: at most about so many, with all aspects listed."""
_PER_TOKEN = 8
"""Bytes of a written token, at most, as a rule."""


class Data(NamedTuple):
    """What a search works on."""

    train: list[Query]
    """Queries to search with."""
    held_out: list[Query]
    """Queries of the proof."""
    examples: list[Demonstration]


class Plan(NamedTuple):
    """What a run can take at most if no request fails."""

    parts: list[Planned]
    proof: list[Planned]
    """The part of it that the proof takes."""


def check_queries(config: DrpoConfig, train: Sequence[Query]) -> None:
    """Raise `DataError` where there are too few queries to search with, before anything is asked."""
    search = config.search
    if isinstance(search, PaperSearch):
        needed, why = search.most_queries, "judges each level on a query of its own (lower search.depth or extension)"
    else:
        needed = max(search.minibatch, search.least_pairs)
        why = "compares prompts on so many (lower search.minibatch and search.least_pairs)"
    if len(train) < needed:
        raise DataError(
            f"{len(train)} queries are left to search with beside the {config.holdout} of the proof, and the search "
            f"needs {needed}: it {why}. Give more queries, or lower holdout."
        )


def plan_of(config: DrpoConfig, data: Data) -> Plan:
    """Return the most that each role can be asked."""
    search, sizes = config.search, _Sizes(config, data)
    if isinstance(search, PaperSearch):
        evaluations, requests = search.most_evaluations, search.most_proposals // search.proposals
    else:
        evaluations, requests = search.most_evaluations(len(data.train)), _racing_requests(search)
    queries, held_out = len(data.train), len(data.held_out)
    proof_answers = (1 + config.proof.finalists) * held_out
    parts = [sizes.model(evaluations)]
    parts += sizes.judge(queries, evaluations)
    if isinstance(config.proposer, ModelProposer):
        parts.append(sizes.optimizer(requests * config.proposer.requests, config.proposer.max_new_tokens))
    rewriting = config.rewrites
    if rewriting is not None:
        parts.append(sizes.optimizer(rewriting.most_requests(len(data.examples)), rewriting.max_new_tokens))
        parts += sizes.judge(len(data.examples), rewriting.most_judgements(len(data.examples)))
    proof = [sizes.model(proof_answers), *sizes.judge(held_out, proof_answers)]
    return Plan([*parts, *proof], proof)


def for_the_search(settings: BudgetSettings, plan: Plan) -> BudgetSettings:
    """Return the budget without what the proof can take, but at least half of it: a gain that nobody can prove is none.

    A proof that finds no room any more says so, and counts what it has.
    """
    proof = _total(plan.proof, settings)

    def left(limit: float | None, needed: float) -> float | None:
        return None if limit is None else max(limit - needed, limit / 2)

    calls, tokens = left(settings.calls, proof.calls), left(settings.tokens, proof.tokens)
    return settings.model_copy(
        update={
            "calls": None if calls is None else math.ceil(calls),
            "tokens": None if tokens is None else math.ceil(tokens),
            "money": left(settings.money, proof.money),
        }
    )


def bound_in_words(config: DrpoConfig, plan: Plan, budget: Budget) -> str:
    """Return the upper bound, as it is said before the first call."""
    most, allowed = _total(plan.parts, config.budget), budget.upper_bound(plan.parts)
    by_role = ", ".join(f"{calls} {role}" for role, calls in _calls(plan.parts).items())
    said = [f"at most {most.calls} calls ({by_role}) and {most.tokens:,} tokens" + _money(config, most)]
    if allowed != most:
        said.append(f"the budget leaves room for {counted(allowed.calls, 'call')} and {allowed.tokens:,} tokens")
        said[-1] += _money(config, allowed)
    retries = max((one.retries for one in _servers(config)), default=0)
    if retries:
        again = "within the budget" if _limited(config.budget) else "on top"
        said.append(f"requests that fail are sent up to {retries} times more, {again}")
    return "; ".join(said)


def _money(config: DrpoConfig, spend: Spend) -> str:
    return f", {spend.money:.4g} of money" if config.budget.prices else ""


def _limited(budget: BudgetSettings) -> bool:
    return any(limit is not None for limit in (budget.calls, budget.tokens, budget.money))


def _servers(config: DrpoConfig) -> list[ServerSettings]:
    return [one for one in (config.model, config.judges, config.optimizer) if isinstance(one, ServerSettings)]


def _calls(parts: Sequence[Planned]) -> dict[str, int]:
    calls: dict[str, int] = {}
    for part in parts:
        calls[part.role] = calls.get(part.role, 0) + part.times
    return calls


def _total(parts: Sequence[Planned], prices: BudgetSettings) -> Spend:
    return Budget(BudgetSettings(prices=prices.prices)).upper_bound(parts)


def _racing_requests(search: RacingSettings) -> int:
    """Return how often a proposer can be asked: in parts, and once more for what doublets left open."""
    return search.races * (math.ceil(search.candidates / search.per_request) + 1)


class _Sizes:
    """How large the requests of each role are."""

    def __init__(self, config: DrpoConfig, data: Data) -> None:
        self._config = config
        longest = max(_bytes(query) for query in (*data.train, *data.held_out))
        shown = sorted((_bytes(one.query) + len(one.answer.encode()) for one in data.examples), reverse=True)
        words = config.proposer.max_words * _PER_TOKEN if isinstance(config.proposer, ModelProposer) else _PER_REQUEST
        self._prompt = max(words, len(config.start_prompt.encode()))
        self._query = longest
        self._shown = sum(shown[: config.retrieval.k])
        self._answer = config.sampling.max_new_tokens

    def model(self, times: int) -> Planned:
        size = self._prompt + self._query + self._shown
        return Planned("model", Usage(1, size, self._answer), times)

    def judge(self, queries: int, answers: int) -> list[Planned]:
        judge = self._config.judge
        if not isinstance(judge, DynamicJudgeSettings):
            return []
        size = _PER_REQUEST + self._query + self._answer * _PER_TOKEN
        return [Planned("judge", Usage(1, size, judge.max_new_tokens), judge.most_requests(queries, answers))]

    def optimizer(self, times: int, max_new_tokens: int) -> Planned:
        remembered = self._config.search.remembered
        size = _PER_REQUEST + self._query + self._answer * _PER_TOKEN + (1 + remembered) * self._prompt
        return Planned("optimizer", Usage(1, size, max_new_tokens), times)


def _bytes(query: Query) -> int:
    return sum(len(message.content.encode(errors="replace")) for message in query.messages)
