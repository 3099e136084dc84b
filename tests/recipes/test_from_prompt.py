"""From a prompt search to the weights: the found prompt is the good principle, as the search rendered it."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.recipes import small
from tests.reporting.test_console import printed
from windvane.config import load_config
from windvane.config.writing import to_yaml
from windvane.data import load_queries
from windvane.data.source import DataSource
from windvane.engines.chat import steered_prompts
from windvane.engines.local import LocalEngine
from windvane.engines.models import load_model
from windvane.engines.protocols import Advance, no_progress
from windvane.engines.settings import EngineSettings
from windvane.errors import ConfigError, DataError, RunDirectoryError
from windvane.evaluation.prompt_effect import Arm, PromptAnswers, PromptEffect, prompt_effect
from windvane.judging import RuleAspect, RuleJudge, RuleJudgeSettings, Shorter
from windvane.judging.rule_aspects import Anchors
from windvane.principles import PromptPrinciples, UserPrinciples, write_opposite
from windvane.prompt_search.demonstrations import Demonstration
from windvane.prompt_search.rendering import render
from windvane.prompt_search.retrieval import RetrievalSettings
from windvane.recipes.drpo_config import DrpoConfig
from windvane.recipes.pairs import PairsConfig, run_pairs
from windvane.recipes.prompt import FoundPrompt
from windvane.recipes.sso import run_sso
from windvane.recipes.sso_config import SSOConfig
from windvane.reporting.console import prompt_effect_table
from windvane.reporting.show import summary_tables
from windvane.run import RunDirectory
from windvane.types import Completion, Message, Principle, Prompt, Query, Sampling, ScoredPair

FOUND = "You help.\n- Be brief."
START = "You help."
RULES = "judge={type: rules, aspects: [{rule: {type: shorter}, anchors: {at_1: -9, at_5: -1}}]}"


def said(text: str, role: str = "user") -> Message:
    return Message.model_validate({"role": role, "content": text})


EXAMPLES = tuple(
    Demonstration(query=Query(id=f"e{n}", messages=(said(f"Name the {thing}."),)), answer=f"The {thing}.")
    for n, thing in enumerate(("old door", "old boat", "new song"))
)


def a_search(folder: Path, *, judge: str = RULES, **changes: Any) -> Path:
    """Write what a finished `windvane drpo` leaves behind, as far as others read it."""
    run = folder / "search"
    (run / ".windvane").mkdir(parents=True)
    config = load_config(DrpoConfig, small.EXAMPLES / "drpo-offline.yaml", [f"output_dir={run}", judge])
    (run / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    found = FoundPrompt(
        system_prompt=FOUND,
        examples=(),
        retrieval=RetrievalSettings(k=2, by="bm25"),
        sampling=Sampling(8),
        start_prompt=START,
        candidate="p3",
        supported=True,
        statement="A gain.",
    )
    values = {**found.model_dump(mode="json"), **changes}
    (run / "prompt.json").write_text(json.dumps(values, default=lambda record: record.model_dump()), encoding="utf-8")
    return run


def settings(model: Path, queries: Path, output: Path, search: Path, *more: str) -> list[str]:
    places = [f"model={model}", f"queries={queries}", f"output_dir={output}", f"principles.from_prompt={search}"]
    guards = "training.guards={max_cut_share: null, max_fall: null, step0_tolerance: 0.02}"
    return [*places, "max_queries=6", "sampling.max_new_tokens=8", *small.EVALUATION, *small.NO_FILTER, guards, *more]


def align(*given: Any) -> Any:
    return run_sso(small.load(SSOConfig, "sso-from-prompt", settings(*given)), console=small.QUIET)


# The settings


def test_one_override_replaces_whatever_a_file_says_about_principles() -> None:
    """As in `windvane sso examples/sso.yaml --set principles.from_prompt=runs/x`, where the file names the bank."""
    for example in ("sso", "sso-from-prompt"):
        found = small.load(SSOConfig, example, ["principles.from_prompt=runs/x"]).principles
        assert found == PromptPrinciples(from_prompt=Path("runs/x"))
    whole = small.load(SSOConfig, "demo-concise", ["principles={from_prompt: runs/x, bad: opposite}"]).principles
    assert whole == PromptPrinciples(from_prompt=Path("runs/x"), bad="opposite")
    assert isinstance(small.load(SSOConfig, "demo-concise", []).principles, UserPrinciples)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("principles={from_prompt: runs/x, opposite: Be long.}", "opposite has no effect with bad: start"),
        ("principles={from_prompt: runs/x, bad: opposite, opposite: '  '}", "opposite has no words"),
        ("principles={from_prompt: runs/x, bad: end}", "principles.bad"),
        ("principles={from_prompt: runs/x, good: Be nice.}", "principles.good is not a key"),
        ("principles={type: prompt}", "from_prompt"),
        ("principles.from_prompt=3", "principles.from_prompt"),
    ],
)
def test_wrong_settings(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small.load(SSOConfig, "sso", [override])
    assert message in str(caught.value)


# The principles


def principles_of(run: Path, stage: str = "iteration-1") -> list[Principle]:
    return small.records(run / stage / "principles.jsonl", Principle)


def test_the_policy_learns_to_answer_as_under_the_found_prompt(model: Path, queries: Path, tmp_path: Path) -> None:
    """The prompts that pairs are sampled and measured under are the search's own, examples included."""
    search = a_search(tmp_path, examples=EXAMPLES)
    result = align(model, queries, tmp_path / "run", search)
    found = FoundPrompt.read(RunDirectory.read(search))
    asked = {query.id: query for query in load_queries(DataSource(path=str(queries)))}
    principles = principles_of(result.run)
    assert len(principles) == 6
    assert {principle.origin for principle in principles} == {"prompt"}
    for principle in principles:
        query = asked[principle.query_id]
        shown = found.source().examples_for(query)
        assert len(shown) == 2
        steered = steered_prompts(query.messages, principle)
        assert steered.good == render(FOUND, shown, query)
        assert steered.bad == (said(START, "system"), *query.messages)
    engine = LocalEngine(load_model(str(model), EngineSettings()), EngineSettings())
    scored = small.records(result.run / "iteration-1" / "scored.jsonl", ScoredPair)
    for each in scored:
        assert each.pair.principle is not None
        good = steered_prompts(each.pair.prompt, each.pair.principle).good
        ids = [engine.loaded.chat.prompt_ids(good)]
        assert len(ids[0]) > len(engine.loaded.chat.prompt_ids(each.pair.prompt)) + 50
    sampled = small.records(result.run / "iteration-1" / "pairs.jsonl", type(scored[0].pair))
    assert [pair.principle for pair in sampled] == [each.pair.principle for each in scored]


def test_an_empty_start_prompt_is_no_system_message() -> None:
    query = (said("Hello"),)
    principle = Principle(query_id="q", features=(), good=FOUND, bad="", origin="prompt")
    assert steered_prompts(query, principle).bad == query


def test_a_system_message_of_the_query_comes_first() -> None:
    query = Query(id="q", messages=(said("Speak French.", "system"), said("Hello")))
    shown = render("", EXAMPLES[:1], Query(id="x", messages=()))
    principle = Principle(query_id="q", features=(), good=FOUND, bad=START, origin="prompt", shown=shown)
    assert steered_prompts(query.messages, principle).good == render(FOUND, EXAMPLES[:1], query)


def test_the_pairs_file_says_which_examples_belong_to_the_prompt(model: Path, queries: Path, tmp_path: Path) -> None:
    search = a_search(tmp_path, examples=EXAMPLES)
    more = ["max_queries=4", "sampling.max_new_tokens=8", "pairs.max_repetition=1"]
    places = [f"model={model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}"]
    config = small.load(PairsConfig, "pairs", [*places, *more, f"principles={{from_prompt: {search}}}"])
    result = run_pairs(config, console=small.QUIET)
    rows = [json.loads(line) for line in result.pairs.read_text(encoding="utf-8").splitlines()]
    assert {row["principle_good"] for row in rows} == {FOUND}
    assert all(len(row["principle_shown"]) == 4 for row in rows)


# The opposite


class Writer:
    """A generator with prepared replies; remembers what it was asked."""

    def __init__(self, *replies: str, finish: str = "stop") -> None:
        self.replies = list(replies)
        self.finish = finish
        self.asked: list[Prompt] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        self.asked += prompts
        values = [{"text": self.replies.pop(0), "token_ids": (), "finish": self.finish} for _ in prompts]
        return [Completion.model_validate(value) for value in values]


def test_the_opposite_is_asked_for_until_it_can_be_used() -> None:
    writer = Writer(f"  {FOUND.upper()} ", "<think>Hm.</think>\nYou do not help.\n- Ramble.")
    assert write_opposite(FOUND, writer, seed=0) == "You do not help.\n- Ramble."
    first, again = writer.asked
    assert first.messages[-1].content == f"Instructions: {FOUND}"
    assert "it repeats the prompt" in again.messages[-1].content
    assert first.seed != again.seed


@pytest.mark.parametrize(
    ("writer", "why"),
    [
        (Writer("", " -- "), "it is empty"),
        (Writer(FOUND, FOUND), "it repeats the prompt"),
        (Writer("Ramble on", "Ramble on", finish="length"), "it was cut off"),
    ],
)
def test_an_opposite_that_cannot_be_used_twice_is_an_error(writer: Writer, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"{why}.*principles\.opposite"):
        write_opposite(FOUND, writer, seed=0)


def test_the_opposite_can_be_the_bad_side(model: Path, queries: Path, tmp_path: Path) -> None:
    bad = ["principles.bad=opposite", "principles.opposite=You ramble."]
    result = align(model, queries, tmp_path / "run", a_search(tmp_path), *bad, "evaluation=null")
    assert {principle.bad for principle in principles_of(result.run)} == {"You ramble."}
    assert result.prompt_effect is None


def test_the_model_writes_the_opposite_once_for_all_iterations(
    model: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, told = list[str](), list[str]()

    def write(prompt: str, generator: object, *, seed: int) -> str:
        written.append(prompt)
        return f"Opposite {len(written)}."

    monkeypatch.setattr("windvane.recipes.prompt_contrast.write_opposite", write)
    monkeypatch.setattr(RunDirectory, "say", lambda run, text: told.append(text))
    more = ["principles.bad=opposite", "iterations=2", "evaluation=null"]
    result = align(model, queries, tmp_path / "run", a_search(tmp_path), *more)
    assert written == [FOUND]
    bad = {each.bad for stage in ("iteration-1", "iteration-2") for each in principles_of(result.run, stage)}
    assert bad == {"Opposite 1."}
    (line,) = (text for text in told if "opposite of the prompt" in text)
    assert line.endswith(": Opposite 1.")


# What it brings


def answers(*texts: str) -> list[Completion]:
    return [Completion(text=text, token_ids=(), finish="stop") for text in texts]


def effect_of(before: Iterable[str], prompted: Iterable[str], after: Iterable[str], judge: RuleJudge | None) -> Any:
    sides = PromptAnswers(answers(*before), answers(*prompted), answers(*after))
    queries = [Query(id=f"q{n}", messages=(said("?"),)) for n in range(len(sides.before))]
    return prompt_effect(queries, sides, judge, seed=0)


def test_the_share_that_was_learned_by_hand() -> None:
    """Words 9, 1 and 5 score 1, 5 and 3 here: half of the prompt's gain is learned."""
    judge = RuleJudge(RuleJudgeSettings(aspects=(RuleAspect(rule=Shorter(), anchors=Anchors(at_1=-9, at_5=-1)),)))
    effect: PromptEffect = effect_of(["a " * 9] * 8, ["a"] * 8, ["a " * 5] * 8, judge)
    assert [arm.score for arm in (effect.before, effect.prompted, effect.after)] == [1, 5, 3]
    assert [arm.mean_words for arm in (effect.before, effect.prompted, effect.after)] == [9, 1, 5]
    assert effect.after.aspects == {"Conciseness": 3}
    assert (effect.before.change_ci, effect.prompted.change_ci, effect.after.change_ci) == (None, (4, 4), (2, 2))
    assert effect.share_learned == 0.5


def test_where_the_prompt_gains_nothing_there_is_no_share() -> None:
    judge = RuleJudge(RuleJudgeSettings(aspects=(RuleAspect(rule=Shorter(), anchors=Anchors(at_1=-9, at_5=-1)),)))
    mixed = ["a", "a " * 9] * 4
    effect = effect_of(mixed, mixed[::-1], ["a"] * 8, judge)
    assert effect.share_learned is None
    assert effect_of(mixed, mixed, mixed, None).before.score is None


@pytest.mark.parametrize(
    ("judge", "rule", "aspects"),
    [
        (RULES, "evaluation.rule={type: structured}", {"Conciseness"}),
        ("judge={type: dynamic}", "evaluation.rule={type: structured}", {"Structure"}),
        ("judge={type: dynamic}", "evaluation.rule=null", set()),
    ],
)
def test_three_conditions_are_compared_by_the_measure_of_the_search(
    judge: str, rule: str, aspects: set[str], model: Path, queries: Path, tmp_path: Path
) -> None:
    result = align(model, queries, tmp_path / "run", a_search(tmp_path, judge=judge), rule)
    effect = result.prompt_effect
    assert effect is not None
    assert effect.n == 4
    assert set(effect.prompted.aspects) == aspects
    prompted = small.records(result.run / "evaluation" / "prompted.jsonl", Completion)
    assert effect.prompted.mean_words == sum(answer.words for answer in prompted) / 4
    assert small.read_json(result.run / "summary.json")["prompt_effect"] == effect.model_dump(mode="json")


def arm(score: float | None, words: float, interval: tuple[float, float] | None, **aspects: float) -> Arm:
    return Arm(mean_words=words, score=score, aspects=aspects, change_ci=interval)


def test_the_table_shows_the_three_conditions_and_the_share(tmp_path: Path) -> None:
    """A name that a user gave an aspect is shown as it is, and `windvane show` prints the same."""
    name = {"[bold]Wit": 2.0}
    effect = PromptEffect(
        n=30, before=arm(2.0, 70, None, **name), prompted=arm(3.0, 30.5, (0.5, 1.5), **name),
        after=arm(2.75, 40, (0.25, 1.25), **name),
    )  # fmt: skip
    shown = printed(prompt_effect_table(effect))
    for part in (
        "on 30 queries",
        "+1.00 [0.50, 1.50]",
        "+0.75 [0.25, 1.25]",
        "[bold]Wit",
        "30.5",
        "has 75 % of what",
    ):
        assert part in shown
    assert shown in printed(summary_tables({"prompt_effect": effect.model_dump(mode="json")}, {}))
    assert "cannot read" in printed(summary_tables({"prompt_effect": {"n": 1}}, {}))
    unsupported = effect.model_copy(update={"prompted": arm(3.0, 30.5, (-0.5, 1.5))})
    assert "nothing to take over" in printed(prompt_effect_table(unsupported))
    wordless = PromptEffect(n=1, before=arm(None, 7, None), prompted=arm(None, 5, None), after=arm(None, 6, None))
    assert "score" not in printed(prompt_effect_table(wordless))


# Bad input


def test_a_prompt_that_leaves_no_room_is_said_before_anything_is_trained(
    model: Path, queries: Path, tmp_path: Path
) -> None:
    """The model takes 4096 tokens, each a byte: 3900 of prompt leave the pairs their 8, but no answer its 400."""
    search = a_search(tmp_path, system_prompt="Be brief. " * 390)
    with pytest.raises(DataError, match="takes 4096 in all"):
        align(model, queries, tmp_path / "run", search, "evaluation.max_new_tokens=400")
    assert not (tmp_path / "run" / "iteration-1").exists()


def test_an_empty_start_prompt_is_a_bad_principle_too(model: Path, queries: Path, tmp_path: Path) -> None:
    result = align(model, queries, tmp_path / "run", a_search(tmp_path, start_prompt=""), "evaluation=null")
    assert {principle.bad for principle in principles_of(result.run)} == {""}


def test_a_folder_that_is_no_finished_search(model: Path, queries: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"principles\.from_prompt: .*none is not there"):
        align(model, queries, tmp_path / "a", tmp_path / "none")
    search = a_search(tmp_path)
    (search / "prompt.json").unlink()
    (search / "provenance.json").write_text('{"command": "drpo"}', encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="is not finished"):
        align(model, queries, tmp_path / "b", search)
    (search / "provenance.json").write_text('{"command": "sso"}', encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="is a run of sso"):
        align(model, queries, tmp_path / "c", search)
    (search / "prompt.json").write_text('{"system_prompt": 3}', encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        align(model, queries, tmp_path / "d", search)


def test_a_folder_that_is_no_search_is_said_before_a_model_is_loaded(
    model: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object, name: str) -> object:
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr("windvane.engines.workbench.Workbench.engine", load)
    with pytest.raises(RunDirectoryError, match=r"principles\.from_prompt: .* is not a run directory"):
        align(model, queries, tmp_path / "run", tmp_path)


def test_without_a_contrast_there_is_nothing_to_learn(model: Path, queries: Path, tmp_path: Path) -> None:
    search = a_search(tmp_path, system_prompt=START)
    with pytest.raises(ConfigError, match=r"no contrast.*principles\.bad: opposite"):
        align(model, queries, tmp_path / "a", search)
    same = ["principles.bad=opposite", f"principles.opposite={START}"]
    with pytest.raises(ConfigError, match=r"no contrast.*another principles\.opposite"):
        align(model, queries, tmp_path / "b", search, *same)


def test_a_gain_that_was_not_proved_is_said_once(model: Path, queries: Path, tmp_path: Path) -> None:
    search = a_search(tmp_path, supported=False, statement="No gain is supported.")
    out = io.StringIO()
    places = settings(model, queries, tmp_path / "run", search, "iterations=2", "evaluation=null")
    run_sso(small.load(SSOConfig, "sso-from-prompt", places), console=Console(file=out, width=300))
    assert out.getvalue().count("did not prove a gain: No gain is supported.") == 1


def test_another_prompt_is_another_run(model: Path, queries: Path, tmp_path: Path) -> None:
    search = a_search(tmp_path)
    align(model, queries, tmp_path / "run", search, "evaluation=null")
    values = json.loads((search / "prompt.json").read_text(encoding="utf-8"))
    (search / "prompt.json").write_text(json.dumps({**values, "system_prompt": "Other."}), encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="principles"):
        align(model, queries, tmp_path / "run", search, "evaluation=null")
