import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.stub_server import StubServer, said
from windvane.engines.protocols import Advance, ChatRequest, Generator, Reply, Talker, no_progress
from windvane.engines.scripted import ScriptedEngine
from windvane.engines.server import ServerSettings, ServerTalker
from windvane.engines.talkers import LocalTalker, ScriptedTalker, TalkerGenerator
from windvane.errors import ConfigError, DataError, NoReply
from windvane.types import Completion, Message, Prompt, Sampling

SAMPLING = Sampling(64, 0.7)


def request(text: str = "Hi", sample: int = 0, sampling: Sampling = SAMPLING) -> ChatRequest:
    return ChatRequest((Message(role="user", content=text),), sampling, sample)


def ask(talker: Talker, *requests: ChatRequest) -> list[Any]:
    async def work() -> list[Any]:
        return await asyncio.gather(*map(talker.ask, requests), return_exceptions=True)

    return asyncio.run(work())


class SlowEngine:
    """A `Generator` that notes its batches, takes its time and refuses what is too long."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds
        self.batches: list[list[Prompt]] = []
        self.threads: set[str] = set()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        if any(len(prompt.messages[-1].content) > 20 for prompt in prompts):
            raise DataError("it does not fit")
        if sampling.max_new_tokens < 1:
            raise ConfigError("no room")
        self.batches.append(list(prompts))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        return [
            Completion(
                text=f"<think>…</think>{prompt.messages[-1].content} {prompt.seed}", token_ids=(1, 2), finish="stop"
            )
            for prompt in prompts
        ]


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine()


def local(engine: Generator, **options: Any) -> LocalTalker:
    return LocalTalker(engine, "local:tiny", **options)


def test_what_arrives_at_once_is_one_batch_and_what_waits_the_next(engine: SlowEngine) -> None:
    async def chain(number: int) -> str:
        first = await talker.ask(request(f"{number}"))
        return (await talker.ask(request(f"{number} again"))).text + first.text

    async def work() -> list[str]:
        return await asyncio.gather(*map(chain, range(5)))

    talker = local(engine)
    texts = asyncio.run(work())
    talker.close()
    assert [len(batch) for batch in engine.batches] == [5, 5]
    assert len(engine.threads) == 1
    assert len(set(texts)) == 5


def test_a_reply_depends_on_its_request_and_the_seed_alone(engine: SlowEngine) -> None:
    requests = [request("a"), request("a", 1), request("b"), request("a", sampling=Sampling(64, 0.2))]
    together = ask(local(engine), *requests)
    alone = [ask(local(engine), one)[0] for one in requests]
    other = ask(local(engine, seed=1), *requests)
    assert together == alone
    assert len({reply.text for reply in [*together, *other]}) == 8
    assert [len(batch) for batch in engine.batches[:2]] == [3, 1]  # one batch for each sampling


def test_a_batch_is_no_larger_than_it_may_be(engine: SlowEngine) -> None:
    assert len(ask(local(engine, rows=3), *(request(f"{n}") for n in range(8)))) == 8
    assert [len(batch) for batch in engine.batches] == [3, 3, 2]


def test_thousands_of_requests_reach_the_engine_once_each() -> None:
    engine = SlowEngine(seconds=0.001)
    replies = ask(local(engine), *(request(f"{n}") for n in range(3000)))
    assert [reply.text.split()[0] for reply in replies] == [f"{n}" for n in range(3000)]
    assert sum(map(len, engine.batches)) == 3000


def test_one_conversation_that_does_not_fit_fails_alone(engine: SlowEngine) -> None:
    found = ask(local(engine), request("a"), request("x" * 21), request("b"))
    assert [type(one) for one in found] == [Reply, NoReply, Reply]
    assert str(found[1]) == "it does not fit"
    assert isinstance(ask(local(engine), request(sampling=Sampling(0)))[0], ConfigError)


def test_a_local_reply(engine: SlowEngine) -> None:
    talker = local(engine, prompt_tokens=lambda messages: 7)
    (reply,) = ask(talker, request())
    assert reply.text.startswith("Hi ")
    assert (reply.finish, reply.prompt_tokens, reply.completion_tokens, reply.estimated) == ("stop", 7, 2, False)
    assert talker.name == "local:tiny"
    assert ask(local(ScriptedEngine(lambda prompt: "x" * 99)), request())[0].finish == "length"
    assert ask(local(engine), request("x" * 9))[0].estimated


def test_a_cancelled_ask_leaves_the_others_alone() -> None:
    async def work() -> list[Any]:
        tasks = [asyncio.create_task(talker.ask(request(f"{n}"))) for n in range(3)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    talker = local(SlowEngine(seconds=0.5))
    found = asyncio.run(work())
    assert [type(one) for one in found] == [Reply, asyncio.CancelledError, Reply]


def test_a_real_model_talks(tiny_model_folder: Any) -> None:
    from windvane.engines.local import EngineSettings, LocalEngine, load_model

    engine = LocalEngine(load_model(str(tiny_model_folder), EngineSettings()), EngineSettings())
    count = engine.loaded.chat.prompt_ids
    talker = local(engine, prompt_tokens=lambda messages: len(count(messages)))
    requests = [request(text, sample, Sampling(8, 1.0)) for text in ("Hi", "Ho") for sample in range(2)]
    replies = ask(talker, *requests)
    assert replies == [ask(talker, one)[0] for one in requests]
    assert all(0 < reply.completion_tokens <= 8 for reply in replies)


# A talker as a generator


def test_a_server_is_a_generator() -> None:
    with StubServer() as stub:
        server = ServerTalker(ServerSettings(model="stub", base_url=stub.url))
        counts: dict[str, int] = {}
        steps: list[int] = []

        def count(name: str, number: int) -> None:
            counts[name] = counts.get(name, 0) + number

        generator: Generator = TalkerGenerator(server, close=server.close, count=count)
        prompts = [Prompt(request(f"{n % 2}").messages, seed=n) for n in range(4)]
        for _ in range(2):
            completions = generator.generate(prompts, Sampling(64, 0.7), advance=steps.append)
        bodies = [{"messages": [{"role": "user", "content": f"{n % 2}"}], "seed": n} for n in range(4)]
    assert [completion.text for completion in completions] == [said(body, 0) for body in bodies]
    assert {(completion.token_ids, completion.finish) for completion in completions} == {((), "stop")}
    assert (counts, sum(steps)) == ({"model_calls": 8, "tokens_generated": 40}, 8)


def test_the_first_failure_ends_a_generation_and_is_what_is_raised() -> None:
    def failing(asked: ChatRequest) -> str:
        if asked.messages[0].content == "3":
            raise NoReply("no 3")
        return "x"

    talker = ScriptedTalker(failing, latency=lambda asked: 30.0 if asked.messages[0].content == "slow" else 0.0)
    prompts = [Prompt(request(text).messages, 0) for text in ("1", "slow", "3")]
    with pytest.raises(NoReply, match="no 3"):
        TalkerGenerator(talker).generate(prompts, Sampling(8))


def test_a_generator_works_where_an_event_loop_runs() -> None:
    async def work() -> list[Completion]:
        return TalkerGenerator(ScriptedTalker(lambda asked: "x")).generate([Prompt(request().messages, 0)], Sampling(8))

    assert asyncio.run(work())[0].text == "x"


def test_whatever_else_ended_a_reply_is_no_stop() -> None:
    for finish, kept in (("stop", "stop"), ("length", "length"), ("content_filter", "length")):
        reply = Reply(text="x", finish=finish, prompt_tokens=1, completion_tokens=1)
        generator = TalkerGenerator(ScriptedTalker(lambda asked, reply=reply: reply))
        assert generator.generate([Prompt(request().messages, 0)], Sampling(8))[0].finish == kept


def test_a_scripted_talker_follows_its_script() -> None:
    talker = ScriptedTalker(lambda asked: "one two three four")
    asked = [request(sampling=Sampling(4)), request("a b c", sampling=Sampling(3))]
    assert [(r.text, r.finish, r.prompt_tokens, r.completion_tokens) for r in ask(talker, *asked)] == [
        ("one two three four", "stop", 1, 4),
        ("one two three", "length", 3, 3),
    ]
    assert talker.calls == asked
    assert talker.most_in_flight == 2
