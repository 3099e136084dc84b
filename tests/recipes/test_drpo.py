"""`windvane drpo` from end to end, on a stub server that plays all roles in a world with a known truth."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from rich.console import Console

from tests.recipes import drpo_world, small
from tests.stub_server import Body, StubServer
from windvane.config import load_config
from windvane.engines.journal import read_replies
from windvane.errors import RunDirectoryError
from windvane.prompt_search.rendering import render
from windvane.recipes.drpo import DrpoResult, run_drpo
from windvane.recipes.drpo_config import DrpoConfig
from windvane.recipes.prompt import FoundPrompt, ask_prompt, asked, export_prompt, show_prompt
from windvane.run import RunDirectory


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with StubServer(reply=drpo_world.reply) as server:
        yield server


EXAMPLES = [
    {"id": "e1", "prompt": "Name the moon.", "answer": "Moon, quality 2."},
    {"id": "e2", "prompt": "Name the fish of the river.", "answer": "Fish, quality 3."},
    {"id": "e3", "prompt": "Name the door of the city.", "answer": "Door, quality 2."},
]


def configuration(stub: StubServer, folder: Path, queries: Path, **more: Any) -> DrpoConfig:
    values = drpo_world.config(stub, folder / "run", queries, **more)
    return load_config(DrpoConfig, drpo_world.written(folder / "config.yaml", values))


@pytest.fixture(scope="module")
def whole(stub: StubServer, queries: Path, tmp_path_factory: pytest.TempPathFactory) -> DrpoResult:
    """A run with examples that are rewritten."""
    folder = tmp_path_factory.mktemp("drpo")
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES), encoding="utf-8")
    config = configuration(
        stub, folder, queries,
        examples=str(folder / "examples.jsonl"), rewriting={"attempts": 2}, retrieval={"by": "bm25"},
    )  # fmt: skip
    return run_drpo(config, console=small.QUIET)


def test_the_found_prompt_is_better_and_proved(whole: DrpoResult) -> None:
    summary = small.read_json(whole.run / "summary.json")
    assert summary["method"] == "drpo"
    assert summary["prompt"] == str(whole.prompt)
    assert sum(word in whole.search.found.text for word in drpo_world.WANTED) >= 1
    assert whole.proof.verdict == "gain"
    proof, search = summary["proof"], summary["search"]
    assert proof["n"] == 8
    assert proof["difference"] == pytest.approx(proof["found_mean"] - proof["start_mean"])
    assert 0 < proof["difference_ci"][0] <= proof["difference"] <= proof["difference_ci"][1]
    assert proof["wins"] + proof["ties"] + proof["losses"] == 8
    assert search["calls"] == len(list(read_replies(whole.run / "replies.jsonl"))) == summary["counts"]["model_calls"]
    assert search["calls_reused"] == 0
    assert search["money"] is None
    assert search["levels"] == len(whole.search.races)
    assert search["candidates"] == len(whole.search.candidates)


@pytest.mark.parametrize(
    ("difference", "verdict", "candidate"),
    [
        (0.4, "gain", "p1"),
        (0.1, "no gain", "p1"),
        (None, "no gain", "p1"),
        (-0.1, "no gain", "p0"),
        (-1.0, "loss", "p0"),
    ],
)
def test_a_prompt_that_scored_less_on_the_held_out_queries_is_not_served(
    difference: float | None, verdict: str, candidate: str, whole: DrpoResult
) -> None:
    assert whole.proof.best is not None
    best = whole.proof.best.model_copy(update={"difference": difference, "candidate": "p1"})
    proof = whole.proof.model_copy(update={"verdict": verdict, "best": best})
    config = DrpoConfig.model_validate(RunDirectory.read(whole.run).config())
    found = FoundPrompt.of(config, "bm25", (), whole.search, proof)
    assert (found.candidate, found.supported) == (candidate, verdict == "gain")


def test_examples_are_rewritten_and_the_best_version_is_shown(whole: DrpoResult) -> None:
    found = FoundPrompt.read(RunDirectory.read(whole.run))
    assert [example.answer for example in found.examples] == ["A better answer, quality 5."] * 3
    assert found.retrieval.by == "bm25"


def test_ask_renders_byte_for_byte_what_the_search_rendered(whole: DrpoResult, stub: StubServer) -> None:
    found = FoundPrompt.read(RunDirectory.read(whole.run))
    entries = [entry for entry in read_replies(whole.run / "replies.jsonl") if entry.role == "model"]
    of_found = [entry for entry in entries if found.system_prompt == entry.asked["messages"][0]["content"]]
    assert len(of_found) >= 8
    for entry in of_found[:5]:
        before = len(stub.bodies)
        reply = ask_prompt(whole.run, entry.asked["messages"][-1]["content"], console=small.QUIET)
        sent = stub.bodies[before:]
        assert len(sent) == 1
        assert json.dumps(sent[0]["messages"]).encode() == json.dumps(entry.asked["messages"]).encode()
        assert sent[0]["max_tokens"] == entry.asked["max_new_tokens"]
        assert reply.text == entry.reply.text
        assert len(sent[0]["messages"]) == 1 + 2 * 2 + 1  # two examples of three


def test_a_finished_run_asks_nothing_again(whole: DrpoResult, stub: StubServer) -> None:
    config = DrpoConfig.model_validate(RunDirectory.read(whole.run).config())
    before, prompt = stub.total, whole.prompt.read_bytes()
    again = run_drpo(config, console=small.QUIET)
    assert stub.total == before
    assert again.search == whole.search
    assert whole.prompt.read_bytes() == prompt
    assert small.read_json(whole.run / "summary.json")["search"]["calls_reused"] > 0


def test_the_upper_bound_is_said_before_the_first_call_and_holds(
    stub: StubServer, queries: Path, tmp_path: Path
) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    config = configuration(stub, tmp_path, queries)
    before = stub.total
    result = run_drpo(config, console=console)
    said = console.export_text()
    most = int(said.split("at most ")[1].split(" calls")[0])
    assert 0 < stub.total - before <= most
    assert said.index("at most") < said.index("search 1 of at most 4")
    assert result.proof.statement in " ".join(said.split())


def test_the_whole_budget_is_said_and_not_the_search_s_part(stub: StubServer, queries: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    run_drpo(configuration(stub, tmp_path, queries, budget={"calls": 60}), console=console)
    said = " ".join(console.export_text().split())
    assert "the budget leaves room for 60 calls" in said
    assert "budget.calls leaves 30 beside what is kept for the proof, and 30 of it is spent" in said


def test_show_prints_prompt_proof_and_calls(whole: DrpoResult) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    show_prompt(whole.run, console)
    said = console.export_text()
    assert whole.search.found.text in said
    assert "A gain" in said
    assert "Clarity" in said
    assert f"{small.read_json(whole.run / 'summary.json')['search']['calls']} calls" in said


def test_a_judge_whose_choices_cannot_be_read_is_said_in_the_run_and_in_show(queries: Path, tmp_path: Path) -> None:
    def reply(body: Body, index: int) -> str:
        chooses = "You prepare" in body["messages"][0]["content"]
        return "The JSON object is: {" if chooses else drpo_world.reply(body, index)

    console = Console(record=True, width=200, file=io.StringIO())
    with StubServer(reply=reply) as stub:
        result = run_drpo(configuration(stub, tmp_path, queries, judge="dynamic"), console=console)
    show_prompt(result.run, console)
    said = " ".join(console.export_text().split())
    note = (
        "queries answers were scored on Helpfulness, Clarity, Factuality, as the judge's choice of aspects could not be"
    )
    assert said.count(note) == 2
    assert small.read_json(result.run / "summary.json")["search"]["notes"] == list(result.search.notes)


def test_exports(whole: DrpoResult) -> None:
    found = FoundPrompt.read(RunDirectory.read(whole.run))
    wanted = render(found.system_prompt, found.examples[:2], asked("What is {{ this }}?"))
    assert FoundPrompt.model_validate_json(export_prompt(whole.run, "json")) == found
    assert export_prompt(whole.run, "txt") == found.system_prompt
    body = json.loads(export_prompt(whole.run, "openai"))
    assert body["model"] == "stub"
    assert [turn["content"] for turn in body["messages"][:-1]] == [message.content for message in wanted[:-1]]
    assert body["messages"][-1] == {"role": "user", "content": "{query}"}
    template = jinja2.Environment().from_string(export_prompt(whole.run, "jinja"))
    assert json.loads(template.render(query="What is {{ this }}?")) == [message.model_dump() for message in wanted]
    modelfile = export_prompt(whole.run, "modelfile")
    assert modelfile.startswith("# ")
    assert '\nFROM stub\nSYSTEM """' in modelfile
    assert "\nPARAMETER num_predict 512" in modelfile
    assert modelfile.count("MESSAGE user") == modelfile.count("MESSAGE assistant") == 2


def test_an_exported_request_is_the_one_of_the_search(stub: StubServer, queries: Path, tmp_path: Path) -> None:
    """Fields that a server refuses are left out of it too, and those that the user added are in it."""
    model = {"model": stub.model, "base_url": stub.url, "leave_out": ["temperature"], "extra_body": {"top_k": 20}}
    config = configuration(
        stub, tmp_path, queries, model=model, budget={"calls": 1}, sampling={"max_new_tokens": 32, "top_p": 0.9}
    )
    run = run_drpo(config, console=small.QUIET).run
    asked_for = dict(stub.bodies[-1])
    assert asked_for.pop("seed") == 0
    asked_for["messages"] = [*asked_for["messages"][:-1], {"role": "user", "content": "{query}"}]
    assert json.loads(export_prompt(run, "openai")) == asked_for


def test_a_run_that_is_no_search_has_no_prompt(whole: DrpoResult, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        show_prompt(tmp_path)


def test_compat_paper_runs_the_published_search(stub: StubServer, queries: Path, tmp_path: Path) -> None:
    config = configuration(stub, tmp_path, queries, compat="paper", search={"depth": 5, "extension": 2})
    assert config.judge.compat_paper  # type: ignore[union-attr]
    result = run_drpo(config, console=small.QUIET)
    assert len(result.search.levels) in range(5, 8)
    assert small.read_json(result.run / "summary.json")["search"]["levels"] == len(result.search.levels)


def test_a_raised_budget_goes_on_from_the_replies_on_file(stub: StubServer, queries: Path, tmp_path: Path) -> None:
    before = stub.total
    short = run_drpo(configuration(stub, tmp_path, queries, budget={"calls": 60}), console=small.QUIET)
    assert stub.total - before <= 60
    assert short.search.ended == "budget"
    longer = run_drpo(configuration(stub, tmp_path, queries, budget={"calls": 2000}), console=small.QUIET)
    (tmp_path / "free").mkdir()
    free = run_drpo(configuration(stub, tmp_path / "free", queries), console=small.QUIET)
    assert longer.search == free.search
    assert longer.proof == free.proof
    replies = [entry.key for entry in read_replies(tmp_path / "run" / "replies.jsonl")]
    assert len(replies) == len(set(replies))


def test_what_the_proof_needs_is_kept_from_the_examples_too(stub: StubServer, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES), encoding="utf-8")
    config = configuration(
        stub,
        tmp_path,
        queries,
        examples=str(tmp_path / "examples.jsonl"),
        retrieval={"by": "bm25"},
        budget={"calls": 8},
    )
    run = run_drpo(config, console=small.QUIET).run
    assert len(list(read_replies(run / "replies.jsonl"))) == 4  # without a limit the examples take 9


def test_money_is_counted_over_all_roles_and_never_overstepped(stub: StubServer, queries: Path, tmp_path: Path) -> None:
    prices = {"model": {"prompt": 1, "completion": 2}, "judge": {"prompt": 3, "completion": 4}}
    prices["optimizer"] = {"prompt": 5, "completion": 6}
    before = stub.tokens
    config = configuration(stub, tmp_path, queries, budget={"money": 2.0, "tokens": 500_000, "prices": prices})
    run = run_drpo(config, console=small.QUIET).run
    spent = sum(
        (entry.reply.prompt_tokens * prices[entry.role]["prompt"]
         + entry.reply.completion_tokens * prices[entry.role]["completion"]) / 1e6
        for entry in read_replies(run / "replies.jsonl")
    )  # fmt: skip
    assert small.read_json(run / "summary.json")["search"]["money"] == pytest.approx(spent)
    assert 0 < spent <= 2.0
    assert stub.tokens - before <= 500_000
