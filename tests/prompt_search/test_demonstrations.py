"""In-context examples: rewritten against their marks, the best version kept."""

import asyncio
import itertools
from collections.abc import Callable, Mapping

import pytest

from windvane.engines.protocols import ChatRequest, Reply
from windvane.engines.talkers import ScriptedTalker
from windvane.errors import BudgetSpent, DataError, NoReply, RunFailed
from windvane.judging import DynamicJudge, DynamicJudgeSettings, FixedAspects, RuleJudge, aspect_bank
from windvane.judging.records import AspectChoice, AspectJudgement, AspectScore, summed_up
from windvane.prompt_search.demonstrations import (
    Demonstration,
    OptimisedDemonstration,
    RewritingSettings,
    Unreadable,
    Version,
    is_better,
    optimise,
    read_rewrite,
    texts,
)
from windvane.types import Message, Query

Scores = Mapping[str, float | None] | float | None


def example(name: str = "q", answer: str = "base") -> Demonstration:
    return Demonstration(query=Query(id=name, messages=(Message(role="user", content=f"Ask {name}?"),)), answer=answer)


def judgement(scores: Scores, name: str = "q") -> AspectJudgement:
    if not isinstance(scores, Mapping):
        scores = {"Clarity": scores, "Depth": scores}
    return summed_up(
        name,
        [
            AspectScore(aspect=aspect, score=score, reason=f"why {aspect}", unscored="lost" if score is None else None)
            for aspect, score in scores.items()
        ],
    )


class Marks:
    """A judge that looks scores up."""

    name = "marks"

    def __init__(self, table: Mapping[str, Scores]) -> None:
        self._table = table
        self.judged: list[str] = []

    async def aspects_for(self, query: Query) -> AspectChoice:
        return AspectChoice(query_id=query.id, aspects=aspect_bank()[1:2], origin="fixed")

    async def judge(self, query: Query, response: str) -> AspectJudgement:
        self.judged.append(response)
        return judgement(self._table[response], query.id)


def writes(*answers: str) -> ScriptedTalker:
    """A talker that hands out answers in order."""
    left = iter(answers)
    return ScriptedTalker(lambda request: f"<answer>{next(left)}</answer>")


def optimised(
    judge: object, talker: ScriptedTalker, settings: RewritingSettings | None = None
) -> OptimisedDemonstration:
    (found,) = asyncio.run(optimise([example()], judge, talker, settings))
    return found


def test_the_best_version_is_kept_and_not_the_latest() -> None:
    judge = Marks({"base": 2, "a": 3, "b": 4, "c": 3, "d": 1, "e": 3.5})
    talker = writes("a", "b", "c", "d", "e")
    found = optimised(judge, talker)
    assert found.answer == "b"
    assert [version.answer for version in found.versions] == ["base", "a", "b", "c", "d", "e"]
    assert (found.best, found.attempts, found.ended) == (2, 5, "attempts")
    assert len(talker.calls) == 5
    assert len(judge.judged) == RewritingSettings().most_judgements(1) == 6
    assert OptimisedDemonstration.from_json(found.to_json()) == found


def test_each_request_shows_the_best_its_marks_and_the_attempt_that_failed() -> None:
    talker = writes("a", "b", "c")
    optimised(Marks({"base": 2, "a": 4, "b": 1, "c": 5}), talker)
    first, second, third = (request.messages[1].content for request in talker.calls)
    assert "\nbase\n" in first
    assert "- Clarity: 2. why Clarity" in first
    assert "- Clarity: how easily" in first
    assert "Ask q?" in first
    assert "did not do better" not in first + second
    assert "\na\n" in second
    assert "- Depth: 4. why Depth" in second
    assert "\na\n" in third
    assert "\nb\n" in third.partition("did not do better")[2]
    assert "- Depth: 1. why Depth" in third
    assert [request.sample for request in talker.calls] == [0, 1, 2]
    assert all(f"version {texts().version}]" in request.messages[0].content for request in talker.calls)


@pytest.mark.parametrize(("table", "calls"), [({"base": 5}, 0), ({"base": 1, "a": 2, "b": 5}, 2)])
def test_it_stops_early_at_all_fives(table: dict[str, Scores], calls: int) -> None:
    talker = writes("a", "b", "c")
    found = optimised(Marks(table), talker)
    assert (len(talker.calls), found.ended) == (calls, "perfect")
    assert found.versions[found.best].judgement.score == 5


def test_a_five_beside_an_unscored_aspect_is_not_all_fives() -> None:
    talker = writes("a", "b")
    found = optimised(
        Marks({"base": {"Clarity": 5, "Depth": None}, "a": {"Clarity": None, "Depth": 5}, "b": 5}), talker
    )
    assert len(talker.calls) == 2
    assert (found.answer, found.ended) == ("b", "perfect")


@pytest.mark.parametrize(
    ("table", "best"),
    [
        ({"base": 1, "a": None}, "base"),
        ({"base": None, "a": 1}, "a"),
        ({"base": None, "a": None}, "base"),
        ({"base": 3, "a": 3}, "base"),
        ({"base": {"Clarity": 5, "Depth": 2}, "a": {"Clarity": 4, "Depth": None}}, "base"),
        ({"base": {"Clarity": 5, "Depth": 2}, "a": {"Clarity": None, "Depth": 3}}, "a"),
        ({"base": {"Clarity": 4, "Depth": None}, "a": {"Clarity": None, "Depth": 3}}, "base"),
    ],
)
def test_what_is_unscored_never_wins(table: dict[str, Scores], best: str) -> None:
    assert optimised(Marks(table), writes("a"), RewritingSettings(attempts=1)).answer == best


def test_a_zero_that_stands_in_for_a_missing_score_does_not_count() -> None:
    zero = Version(answer="z", judgement=AspectJudgement(id="q", score=0.0, unscored="unreadable"))
    one = Version(answer="o", judgement=judgement(1))
    assert zero.value is None
    assert is_better(one, zero)
    assert not is_better(zero, one)


def test_a_version_that_was_there_is_not_judged_again() -> None:
    judge = Marks({"base": 2, "a": 3})
    found = optimised(judge, writes("base", "a", " a\n", "base ", "a"))
    assert judge.judged == ["base", "a"]
    assert (len(found.versions), found.attempts) == (2, 5)


FENCED = "----- answer 0123456789ab begins -----\nSo.\n----- answer 0123456789ab ends -----"


@pytest.mark.parametrize(
    ("text", "finish", "answer"),
    [
        ("<answer>So.</answer>", "stop", "So."),
        ("Here it is:\n<Answer>\nSo.\n</ANSWER>\nI hope it helps.", "stop", "So."),
        ("<answer>Write <answer>x</answer> in it.</answer>", "stop", "Write <answer>x</answer> in it."),
        ("<answer>So.", "stop", "So."),
        ("So.", "stop", "So."),
        ("<answer>So.</answer> And mo", "length", "So."),
        (f"<answer>{FENCED}</answer>", "stop", "So."),
    ],
)
def test_a_reply_that_can_be_read(text: str, finish: str, answer: str) -> None:
    assert read_rewrite(Reply(text=text, finish=finish, prompt_tokens=1, completion_tokens=1)) == answer


@pytest.mark.parametrize(
    ("text", "finish"), [("", "stop"), ("<answer> </answer>", "stop"), ("<answer>So", "length"), ("So", "length")]
)
def test_a_reply_without_an_answer_is_asked_for_once_more_then_given_up(text: str, finish: str) -> None:
    reply = Reply(text=text, finish=finish, prompt_tokens=1, completion_tokens=1)
    assert isinstance(read_rewrite(reply), Unreadable)
    talker = ScriptedTalker(lambda request: reply)
    found = optimised(Marks({"base": 2}), talker, RewritingSettings(attempts=2))
    assert (found.answer, found.attempts, found.ended) == ("base", 2, "attempts")
    assert len(talker.calls) == RewritingSettings(attempts=2).most_requests(1) == 4
    assert ["could not be used" in request.messages[1].content for request in talker.calls] == [False, True] * 2

    def second(request: ChatRequest) -> str | Reply:
        return "<answer>a</answer>" if "could not be used" in request.messages[1].content else reply

    assert optimised(Marks({"base": 2, "a": 5}), ScriptedTalker(second)).answer == "a"


def test_all_chains_run_at_once_and_stay_in_order() -> None:
    examples = [example(f"q{number}", "base") for number in range(12)]
    table = {"base": 1.0, "better": 5.0}
    talker = ScriptedTalker(lambda request: "<answer>better</answer>", latency=0.01)
    done = itertools.count()
    found = asyncio.run(optimise(examples, Marks(table), talker, advance=lambda _: next(done) and None))
    assert [one.query.id for one in found] == [one.query.id for one in examples]
    assert {one.answer for one in found} == {"better"}
    assert talker.most_in_flight == 12
    assert next(done) == 12


def fails(error: Exception, after: int) -> Callable[[ChatRequest], str]:
    count = itertools.count()

    def answer(request: ChatRequest) -> str:
        if next(count) >= after:
            raise error
        return f"<answer>{'abcde'[after - 1]}</answer>"

    return answer


def test_a_spent_budget_leaves_the_best_so_far() -> None:
    talker = ScriptedTalker(fails(BudgetSpent("no calls left"), after=1))
    found = optimised(Marks({"base": 2, "a": 3}), talker)
    assert (found.answer, found.ended, found.attempts) == ("a", "budget", 2)

    class Spent(Marks):
        async def judge(self, query: Query, response: str) -> AspectJudgement:
            raise BudgetSpent("no calls left")

    found = optimised(Spent({}), writes())
    assert (found.answer, found.ended) == ("base", "budget")
    assert found.versions[0].judgement.unscored == "not judged: no calls left"


def test_a_missing_reply_costs_one_attempt_and_a_dead_engine_stops_the_run() -> None:
    found = optimised(Marks({"base": 2, "a": 3}), ScriptedTalker(fails(NoReply("filtered"), after=1)))
    assert (found.answer, found.attempts) == ("a", 5)
    with pytest.raises(RunFailed, match="gone"):
        optimised(Marks({"base": 2, "a": 3}), ScriptedTalker(fails(RunFailed("gone"), after=1)))


def test_settings_reach_the_requests() -> None:
    talker = writes("a")
    settings = RewritingSettings(attempts=1, max_new_tokens=77, temperature=0.9, top_p=0.5)
    optimised(Marks({"base": 2, "a": 3}), talker, settings)
    assert [request.sampling for request in talker.calls] == [(77, 0.9, 0.5)]
    none = optimised(Marks({"base": 2}), writes(), RewritingSettings(attempts=0))
    assert (none.answer, none.attempts, len(none.versions)) == ("base", 0, 1)


def test_two_examples_of_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="the id 'q'"):
        asyncio.run(optimise([example(), example()], Marks({}), writes()))
    assert asyncio.run(optimise([], Marks({}), writes())) == []


def test_rules_judge_examples_without_a_model() -> None:
    wordy = "Sure! I'd be happy to help. It rains. I hope this helps! Let me know if you need anything else."
    found = asyncio.run(optimise([example(answer=wordy)], RuleJudge(), writes("It rains.")))[0]
    assert (found.answer, found.ended) == ("It rains.", "perfect")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.07, 0.2])
def test_broken_judgements_and_broken_rewrites_never_crash_and_never_win(share: float) -> None:
    """Every rewrite is truly one better than the one before; whatever is lost, no example gets worse."""
    from tests.judging.talkers import every_so_often, verdict

    def mark(request: ChatRequest) -> str:
        level = request.messages[1].content.count("*")
        return verdict(Clarity=min(5, 1 + level), Depth=min(5, 1 + level))

    def rewrite(request: ChatRequest) -> str:
        present = request.messages[1].content.partition("did not do better")[0]
        return f"<answer>base {'*' * (present.count('*') + 1)}</answer>"

    judge = DynamicJudge(
        every_so_often(share, mark), DynamicJudgeSettings(choice=FixedAspects(names=("Clarity", "Depth")))
    )
    optimiser = every_so_often(share, rewrite, ("", "<answer>", "<answer></answer>", "  "))
    examples = [example(f"q{number}") for number in range(40)]
    found = asyncio.run(optimise(examples, judge, optimiser))
    assert [one.query.id for one in found] == [one.query.id for one in examples]
    for one in found:
        assert all(version.value is None or version.value >= 1 for version in one.versions)
        values = [version.value for version in one.versions if version.value is not None]
        assert not values or one.versions[one.best].value == max(values)
    perfect = sum(one.ended == "perfect" for one in found)
    assert perfect == 40 if not share else perfect >= 20
