"""What can be wrong about a prompt search, through the command line: said once, with its value and the way out."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recipes import drpo_world, small
from tests.stub_server import Body, StubServer
from tests.test_cli import Outcome, Place, refused
from windvane.engines.journal import read_replies

KEY = "sk-0123456789-this-is-secret"


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with StubServer(reply=drpo_world.reply) as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[StubServer]:
    """A server that wants another key."""
    with StubServer(reply=drpo_world.reply, key="the right one") as server:
        yield server


class Search(Place):
    """A user's folder with queries and a configuration of a search."""

    def drpo(self, *overrides: str) -> Outcome:
        """Run ``windvane drpo config.yaml`` with overrides."""
        return self("drpo", "config.yaml", *(word for each in overrides for word in ("--set", each)))

    def configure(self, stub: StubServer, **more: Any) -> None:
        """Write the configuration."""
        values = drpo_world.config(stub, Path("run"), Path("queries.jsonl"), **more)
        drpo_world.written(self.root / "config.yaml", values)


@pytest.fixture
def place(
    tmp_path: Path, stub: StubServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Search:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("WINDVANE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    small.write_queries(tmp_path / "queries.jsonl")
    found = Search(tmp_path, capfd)
    found.configure(stub)
    found.write("examples.jsonl", '{"prompt": "Name the moon.", "answer": "Moon."}\n')
    return found


CASES = {
    "no key in the environment": (["model.api_key_env=NO_SUCH_KEY"], ["NO_SUCH_KEY", "export"]),
    "the key itself in the configuration": ([f"model.api_key_env={KEY}"], ["model.api_key_env", "NAME"]),
    "an address where nobody is": (["model.base_url=http://127.0.0.1:9/v1"], ["http://127.0.0.1:9/v1"]),
    "an address that is none": (["model.base_url=localhost:8000"], ["localhost:8000", "http://127.0.0.1:8000/v1"]),
    "a model that the server has not": (["model.model=stubb"], ["stubb", "stub"]),
    "a server with neither address nor command": (["model={type: server, model: m}"], ["base_url", "command"]),
    "a command that is not there": (
        ["model={model: m, command: [no-such-server, --port, '{port}']}"], ["no-such-server", "command"],
    ),
    "a local model that is not there": (["model=no-such-model"], ["no-such-model"]),
    "a number for a model": (["model=5"], ["model", "5"]),
    "no model": (["model="], ["model"]),
    "an unknown aspect": (["judge.choice={type: fixed, names: [Clarty]}"], ["Clarty", "Clarity"]),
    "an aspect file that is not there": (["judge.aspects=mine.yaml"], ["mine.yaml", "not there"]),
    "an unknown judge": (["judge=dynamyc"], ["judge", "dynamyc", "dynamic"]),
    "an unknown rule": (["judge={type: rules, aspects: [{rule: {type: longer}}]}"], ["longer", "shorter"]),
    "digits of a server": (["judge=digits"], ["digits", "judge_model"]),
    "a judge model for rules": (["judge=rules", "judge_model=smollm2-135m"], ["judge_model", "rules"]),
    "a budget of 0 calls": (["budget.calls=0"], ["budget.calls", "at least 1", "0"]),
    "a budget of 0 money": (["budget.money=0"], ["budget.money", "greater than 0"]),
    "money without a price": (["budget.money=1"], ["budget.money", "budget.prices.model"]),
    "queries fewer than the minibatch": (["max_queries=14"], ["6 queries", "8", "holdout"]),
    "queries fewer than held out": (["max_queries=7"], ["held-out", "8"]),
    "too few held out to prove anything": (["holdout=2"], ["holdout", "at least 6", "2"]),
    "too few held out for so many finalists": (
        ["proof.finalists=3", "holdout=6"], ["holdout 6", "3 finalists", "holdout to 7"],
    ),
    "the price of a role that is none": (
        ["budget.prices={optimiser: {prompt: 1, completion: 1}}"], ["budget.prices.optimiser", "optimizer"],
    ),
    "queries fewer than the published levels": (["search={type: paper}"], ["16 queries", "30", "search.depth"]),
    "no queries": (["queries=nothing.jsonl"], ["nothing.jsonl", "does not exist"]),
    "an unknown key": (["serch.races=2"], ["serch", "search"]),
    "an unknown search": (["search=beam"], ["search", "beam", "racing"]),
    "a minibatch larger than all": (["search.minibatch=8", "search.most_queries=4"], ["minibatch 8", "most_queries 4"]),
    "the published search, and another": (["compat=paper", "search.type=racing"], ["compat: paper", "racing"]),
    "guidelines that are not there": (["proposer={type: guidelines, path: g.yaml}"], ["g.yaml", "guidelines"]),
    "no guidelines at all": (["proposer={type: guidelines, bank: false}"], ["bank: false", "path"]),
    "an optimizer that nobody asks": (["proposer=guidelines", "optimizer=smollm2-135m"], ["optimizer", "guidelines"]),
    "examples that are not there": (["examples=mine.jsonl"], ["mine.jsonl", "does not exist"]),
    "examples without answers": (["examples=queries.jsonl"], ["queries.jsonl, line 1", "answer_column"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_before_anything_is_asked(case: str, place: Search, stub: StubServer) -> None:
    overrides, parts = CASES[case]
    before = stub.total
    refused(place, lambda: place.drpo(*overrides), *parts)
    probes = 2 if case == "a model that the server has not" else 0
    assert stub.total - before <= probes


def test_several_processes_are_refused(place: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(place, place.drpo, "2 processes", "concurrency")


def test_a_key_is_shown_nowhere(place: Search, locked: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG_KEY", KEY)
    outcome = place.drpo(f"model.base_url={locked.url}", "model.api_key_env=WRONG_KEY")
    assert outcome.code == 2
    assert "WRONG_KEY" in outcome.err
    assert KEY not in outcome.out + outcome.err
    assert not [path for path in place.root.rglob("*") if path.is_file() and KEY in path.read_text(errors="replace")]
    assert place.drpo(f"model.api_key_env={KEY}").err.count(KEY) == 0


def test_a_wrong_value_can_be_put_right_in_the_same_directory(place: Search) -> None:
    assert place.drpo("model.model=stubb").code == 2
    outcome = place.drpo()
    assert outcome.code == 0, outcome.err
    assert "found prompt: run/prompt.json" in outcome.out
    assert "held-out queries" in place("show", "run").out
    assert "You help" in place("prompt", "export", "run", "--format", "txt").out


def test_another_configuration_on_a_finished_run_is_refused(place: Search) -> None:
    assert place.drpo().code == 0
    refused(place, lambda: place.drpo("start_prompt=Hello."), "start_prompt", "output_dir")


def test_a_server_that_dies_loses_nothing(place: Search) -> None:
    """The same model at another address goes on; no reply that is on file is asked for again."""
    dying: list[StubServer] = []

    def dies(body: Body, index: int) -> str:
        if dying[0].total == 60:
            threading.Thread(target=dying[0].stop).start()
        return drpo_world.reply(body, index)

    with StubServer(reply=dies) as first:
        dying.append(first)
        place.configure(first)
        outcome = place.drpo()
    assert outcome.code == 3, outcome
    assert "the same command goes on" in outcome.err
    assert "Traceback" not in outcome.err
    replies = len(list(read_replies(place.root / "run" / "replies.jsonl")))
    assert replies > 20
    with StubServer(reply=drpo_world.reply) as second:
        outcome = place.drpo(f"model.base_url={second.url}")
        assert outcome.code == 0, outcome.err
        assert f"{replies} replies are on file" in outcome.err
        assert place.drpo(f"model.base_url={second.url}", "output_dir=whole").code == 0
    found, whole = (small.read_json(place.root / name / "prompt.json") for name in ("run", "whole"))
    assert found == whole
    lines = [len(list(read_replies(place.root / name / "replies.jsonl"))) for name in ("run", "whole")]
    assert lines[0] == lines[1]


def world(judged: Callable[[str], str] | None = None, proposed: str | None = None) -> Callable[[Body, int], str]:
    """Return a world with another judge or optimizer."""

    def reply(body: Body, index: int) -> str:
        system, user = body["messages"][0]["content"], body["messages"][-1]["content"]
        if judged is not None and "windvane judging texts" in system:
            return judged(user)
        if proposed is not None and "windvane prompt search texts" in system:
            return proposed
        return drpo_world.reply(body, index)

    return reply


def all_fives(user: str) -> str:
    return json.dumps({name: {"reason": "Fine.", "score": 5} for name in ("Clarity", "Helpfulness")})


def test_a_judge_that_always_says_5_supports_no_gain(place: Search) -> None:
    with StubServer(reply=world(all_fives)) as stub:
        place.configure(stub)
        outcome = place.drpo()
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "No gain" in said
    assert "no answer was scored differently" in said
    prompt = small.read_json(place.root / "run" / "prompt.json")
    assert not prompt["supported"]
    assert prompt["system_prompt"] == "You are a helpful assistant."


def test_a_judge_that_cannot_be_read_stops_the_run_and_invents_nothing(place: Search) -> None:
    with StubServer(reply=world(lambda user: "I would rather not say.")) as stub:
        place.configure(stub)
        outcome = place.drpo()
    assert outcome.code == 3
    assert "has a score" in outcome.err
    assert "another judge" in outcome.err


def test_an_optimizer_without_a_proposal_ends_the_search(place: Search) -> None:
    with StubServer(reply=world(proposed="I have no idea.")) as stub:
        place.configure(stub)
        outcome = place.drpo()
    assert outcome.code == 0, outcome.err
    assert "No gain: the search found no prompt" in " ".join(outcome.out.split())
    assert small.read_json(place.root / "run" / "summary.json")["search"]["ended"] == "no proposals"


def test_a_budget_of_one_call_ends_with_the_start_prompt(place: Search, stub: StubServer) -> None:
    before = stub.total
    outcome = place.drpo("budget.calls=1")
    assert outcome.code == 0, outcome.err
    assert stub.total - before <= 1
    assert "No gain" in outcome.out
    assert "budget.calls is 1" in " ".join(outcome.out.split())


MIXED = {"error": 0.1, "too_many_wait": 0.05, "dropped": 0.05, "empty": 0.05, "cut_off": 0.05}


@pytest.mark.parametrize("faults", [{"malformed": 0.2}, MIXED], ids=["malformed", "mixed"])
def test_faults_end_no_run(faults: dict[str, float], place: Search) -> None:
    with StubServer(reply=drpo_world.reply, faults=faults) as stub:
        place.configure(stub)
        outcome = place.drpo("model.retries=6")
        assert outcome.code == 0, outcome.err
        most = int(outcome.err.split("at most ")[1].split(" calls")[0])
        assert stub.total <= 7 * most
    proof = small.read_json(place.root / "run" / "proof.json")["best"]
    if proof is not None:
        scores = [row[side]["score"] for row in proof["queries"] for side in ("start", "found") if row[side]]
        assert all(score is None or 1 <= score <= 5 for score in scores)


PROMPTS = {
    "show without a run": (["show", "nothing"], ["nothing does not exist"]),
    "export without a run": (["export", "nothing"], ["nothing does not exist"]),
    "show of a folder": (["show", "."], ["is not a run directory"]),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompt_commands_say_what_is_wrong(case: str, place: Search) -> None:
    words, parts = PROMPTS[case]
    refused(place, lambda: place("prompt", *words), *parts)


def test_a_run_that_is_not_finished_has_no_prompt_yet(place: Search) -> None:
    with StubServer(reply=world(lambda user: "I would rather not say.")) as stub:
        place.configure(stub)
        assert place.drpo().code == 3
        refused(place, lambda: place("prompt", "ask", "run", "Hello?"), "prompt.json", "not finished")


DAMAGED = {
    "a proof of something else": (["show"], "proof.json", "{}", ["proof.json", "cannot be read", "same command"]),
    "a prompt of something else": (["export"], "prompt.json", "[]", ["prompt.json", "cannot be read", "same command"]),
    "bytes that are no text": (["show"], "prompt.json", "\udcff", ["prompt.json", "damaged", "same command"]),
    "another configuration": (["export", "--format", "openai"], "config.yaml", "model: 5\n", ["run", "configuration"]),
}


def test_what_is_wrong_in_a_run_directory_is_named(place: Search) -> None:
    assert place.drpo().code == 0
    for words, name, text, parts in DAMAGED.values():
        path = place.root / "run" / name
        before = path.read_bytes()
        path.write_bytes(text.encode(errors="surrogateescape"))
        outcome = place("prompt", words[0], "run", *words[1:])
        assert outcome.code == 2, outcome
        assert all(part in outcome.err for part in parts), outcome.err
        path.write_bytes(before)
    for summary in ("[1]", '{"search": 5}'):
        place.write("run/summary.json", summary)
        assert "A gain" in place("prompt", "show", "run").out


def test_a_query_that_the_model_does_not_take_is_the_users(place: Search) -> None:
    with StubServer(reply=drpo_world.reply, longest=5000) as stub:
        place.configure(stub)
        assert place.drpo().code == 0
        outcome = place("prompt", "ask", "run", "word " * 2000)
    assert outcome.code == 2, outcome
    assert "has no reply to one request" in outcome.err
    assert "same command" not in outcome.err


def test_an_empty_query_is_refused(place: Search) -> None:
    assert place.drpo().code == 0
    refused(place, lambda: place("prompt", "ask", "run", "  "), "query is empty")
    outcome = place("prompt", "export", "run", "--format", "yaml")
    assert outcome.code == 2
    assert "modelfile" in outcome.err
