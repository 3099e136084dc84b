"""Prompt search (DRPO, arXiv:2411.08733): the method's story, top to bottom.

The weights stay. In-context examples are rewritten against their marks; a search finds a system prompt; the found
prompt meets the start prompt on queries that the search never saw. Every reply is on file before it is used, so a run
that was killed asks only for what is missing.
"""

from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from windvane.prompt_search.demonstrations import Demonstration, OptimisedDemonstration, optimise
from windvane.prompt_search.paper import paper_search
from windvane.prompt_search.proof import Proof, prove
from windvane.prompt_search.racing import racing_search
from windvane.prompt_search.records import SearchResult
from windvane.prompt_search.retrieval import NearestExamples
from windvane.recipes.drpo_config import DrpoConfig, PaperSearch
from windvane.recipes.drpo_stages import Desk, Proved, Searched, read_data, refuse_company, source_of
from windvane.recipes.prompt import PROMPT, PROOF, FoundPrompt
from windvane.recipes.report import write_summary
from windvane.recipes.roles import open_roles
from windvane.recipes.session import open_session


class DrpoResult(NamedTuple):
    """What a run made."""

    prompt: Path
    """The found prompt; see `FoundPrompt`."""
    run: Path
    search: SearchResult
    proof: Proof


def run_drpo(config: DrpoConfig, *, console: Console | None = None) -> DrpoResult:
    """Find a prompt and prove it; see `run_sso` for consoles, errors and resuming."""
    refuse_company()
    with (
        open_session(config, command="drpo", may_change=config.may_change(), console=console) as session,
        open_roles(config, session.run.path, session.run.say) as roles,
    ):
        run = session.run
        desk = Desk(config, run, roles, read_data(config))
        for attempt in count(1):
            examples = optimise_examples(desk, attempt)
            source = source_of(examples, config.retrieval)
            searched = search_prompt(desk, attempt, source, examples)
            proof = prove_prompt(desk, attempt, source, searched.result)
            if not searched.cut(proof, config.budget):
                break  # else the budget that cut it short was raised since: once more, from the replies on file
        found = FoundPrompt.of(config, source.by, examples, searched.result, proof)
        result = DrpoResult(run.write_json(PROMPT, found), run.path, searched.result, proof)
        run.write_json(PROOF, proof)
        write_summary(run, "drpo", model=config.model.model, seed=config.seed, results=summary_of(desk, result))
        session.reporter.proof(proof, result.search.notes)
        session.reporter.places({"found prompt": result.prompt, "run directory": run.path})
        return result


def optimise_examples(desk: Desk, attempt: int) -> list[Demonstration]:
    """Return the in-context examples, each with the best of its versions."""
    given, settings = desk.data.examples, desk.config.rewrites
    if not given or settings is None:
        return given

    def make() -> list[OptimisedDemonstration]:
        with desk.leaving_the_proof():
            return desk.ask("examples", lambda: optimise(given, desk.roles.judge(), desk.roles.optimizer(), settings))

    made = desk.once("examples", attempt, make, OptimisedDemonstration, given)
    return [Demonstration(query=one.query, answer=one.answer) for one in made]


def search_prompt(desk: Desk, attempt: int, source: NearestExamples, examples: list[Demonstration]) -> Searched:
    """Search the system prompt."""
    config, train = desk.config, desk.data.train

    async def search() -> SearchResult:
        source.prepare(train)
        evaluator, proposer = desk.evaluator(source), desk.proposer()
        start, settings = config.start_prompt, config.search
        if isinstance(settings, PaperSearch):
            result = await paper_search(start, train, evaluator, proposer, settings, watch=desk.view)
        else:
            result = await racing_search(start, train, evaluator, proposer, settings, seed=config.seed, watch=desk.view)
        return result.model_copy(update={"notes": (*result.notes, *evaluator.notes)})

    def make() -> list[Searched]:
        with desk.leaving_the_proof():
            return [Searched(result=desk.ask("search", search), budget=config.budget)]

    return desk.once("search", attempt, make, Searched, (train, examples, source.by))[0]


def prove_prompt(desk: Desk, attempt: int, source: NearestExamples, result: SearchResult) -> Proof:
    """Hold the best prompts against the start prompt, on queries that the search never saw."""
    config, data = desk.config, desk.data
    finalists = result.finalists[: config.proof.finalists]

    async def proving() -> Proof:
        source.prepare(data.held_out)
        return await prove(
            result.start, finalists, data.held_out, desk.evaluator(source), searched=data.train, seed=config.seed
        )

    def make() -> list[Proved]:
        return [Proved(proof=desk.ask("proof", proving, most=desk.proof_calls))]

    return desk.once("proof", attempt, make, Proved, (data.held_out, result))[0].proof


def summary_of(desk: Desk, result: DrpoResult) -> dict[str, Any]:
    """Return what ``summary.json`` says of a search beyond what it says of any run."""
    search, best = result.search, result.proof.best
    return {
        "counts": {"queries": len(desk.data.train), "held_out": len(desk.data.held_out)},
        "prompt": result.prompt,
        "search": {
            "calls": desk.roles.usage.calls,
            "calls_reused": desk.roles.on_file,
            "money": desk.roles.money,
            "type": desk.config.search.type,
            "levels": len(search.levels or search.races),
            "candidates": len(search.candidates),
            "ended": search.ended,
            "evaluations": len(search.evaluations),
            "unscored": search.unscored,
            "notes": search.notes,
        },
        "proof": {
            "n": best.n if best else 0,
            "start_mean": best.start_mean if best else None,
            "found_mean": best.found_mean if best else None,
            "difference": best.difference if best else None,
            "difference_ci": best.interval if best else None,
            "wins": best.wins if best else 0,
            "ties": best.ties if best else 0,
            "losses": best.losses if best else 0,
            "unscored": best.unscored if best else 0,
            "verdict": result.proof.verdict,
            "statement": result.proof.statement,
        },
    }
