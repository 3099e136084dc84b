import asyncio
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.stub_server import FAULTS, StubServer, said
from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.engines.server import ServerSettings, ServerTalker
from windvane.errors import ConfigError, NoReply, RunFailed
from windvane.types import Message, Sampling

KEY = "sk-very-secret-0123456789"


def request(text: str = "Hi", sample: int = 0, **rest: Any) -> ChatRequest:
    return ChatRequest((Message(role="user", content=text),), Sampling(32, 0.7), sample, **rest)


def expected(text: str = "Hi", sample: int = 0) -> str:
    return said({"messages": [{"role": "user", "content": text}], "seed": sample}, 0)


def settings(*stubs: StubServer, **changes: Any) -> ServerSettings:
    urls = [stub.url for stub in stubs]
    return ServerSettings(**{"model": "stub", "base_url": urls, "backoff": 0.005, "timeout": 20.0} | changes)


def talk(talker: ServerTalker, work: Callable[[ServerTalker], Coroutine[Any, Any, Any]]) -> Any:
    async def session() -> Any:
        async with talker:
            return await work(talker)

    return asyncio.run(session())


def ask_all(talker: ServerTalker, *requests: ChatRequest) -> list[Any]:
    """Ask for all at once and return replies and exceptions in order."""
    return talk(talker, lambda server: asyncio.gather(*map(server.ask, requests), return_exceptions=True))


def test_a_request_says_what_was_asked_and_a_reply_what_was_said() -> None:
    with StubServer() as stub:
        talker = ServerTalker(settings(stub, extra_body={"top_k": 20}))
        as_talker: Talker = talker
        system = Message(role="system", content="Be kind")
        asked = ChatRequest((system, *request().messages), Sampling(7, 0.2, 0.9), 3)
        (reply,) = ask_all(talker, asked)
    messages = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
    assert stub.bodies == [
        {
            "model": "stub",
            "messages": messages,
            "max_tokens": 7,
            "temperature": 0.2,
            "top_p": 0.9,
            "seed": 3,
            "top_k": 20,
        }
    ]
    text = said(stub.bodies[0], 0)
    assert reply == Reply(text=text, finish="stop", prompt_tokens=11, completion_tokens=5)
    assert as_talker.name.startswith("server:stub#")


def test_samples_that_are_asked_for_at_once_are_one_request() -> None:
    with StubServer() as stub:
        replies = ask_all(ServerTalker(settings(stub, samples_per_request=6)), *(request(sample=n) for n in range(8)))
    assert [reply.text for reply in replies] == [expected(sample=n) for n in range(8)]
    assert [body.get("n") for body in stub.bodies] == [6, 2]
    assert sum(reply.prompt_tokens + reply.completion_tokens for reply in replies) == stub.tokens


def test_only_consecutive_samples_of_one_conversation_go_together() -> None:
    asked = [request(sample=4), request(sample=5), request(sample=9), request("Ho"), request("Ho", sample=1)]
    with StubServer() as stub:
        replies = ask_all(ServerTalker(settings(stub)), *asked)
    assert [reply.text for reply in replies] == [expected(r.messages[0].content, r.sample) for r in asked]
    assert sorted((body.get("n", 1), body["seed"]) for body in stub.bodies) == [(1, 9), (2, 0), (2, 4)]


def test_what_a_server_that_ignores_n_leaves_out_is_asked_for() -> None:
    with StubServer(ignore_n=True) as stub:
        talker = ServerTalker(settings(stub))
        replies = ask_all(talker, *(request(sample=n) for n in range(4)))
        assert [reply.text for reply in replies] == [expected(sample=n) for n in range(4)]
        assert stub.total == 4
        ask_all(talker, *(request("Ho", sample=n) for n in range(3)))
        assert stub.total == 7
    assert ["n" in body for body in stub.bodies] == [True] + [False] * 6  # it is asked for once


@pytest.mark.parametrize("field", ["response_format", "n", "max_tokens", "seed"])
def test_what_a_server_refuses_is_left_out_from_then_on(field: str) -> None:
    with StubServer(refuse=(field,)) as stub:
        talker = ServerTalker(settings(stub, retries=0))
        for text, sent in (("Hi", 1), ("Ho", 0)):
            before = stub.total
            replies = ask_all(talker, *(request(text, sample=n, schema={"type": "object"}) for n in range(2)))
            assert all(isinstance(reply, Reply) and reply.text for reply in replies)
            sent_now = stub.bodies[before:]
            assert sum(field in body for body in sent_now) == sent
            assert all("response_format" in body for body in sent_now) or field == "response_format"
    assert ("max_completion_tokens" in stub.bodies[-1]) == (field == "max_tokens")


def test_a_schema_is_sent_as_response_format_and_is_strict_where_it_can_be() -> None:
    with StubServer() as stub:
        closed = {"type": "object", "additionalProperties": False}
        ask_all(ServerTalker(settings(stub)), request(schema={"type": "object"}), request(schema=closed))
        formats = [body["response_format"] for body in stub.bodies]
        assert [f["type"] for f in formats] == ["json_schema"] * 2
        assert [f["json_schema"]["schema"] for f in formats] == [{"type": "object"}, closed]
        assert [f["json_schema"]["strict"] for f in formats] == [False, True]
        ask_all(ServerTalker(settings(stub, leave_out=["response_format", "seed"])), request(schema=closed))
    assert not {"response_format", "seed"} & set(stub.bodies[-1])


@pytest.mark.parametrize("fault", FAULTS)
def test_at_30_percent_of_one_fault_every_ask_ends_within_the_bound(fault: str) -> None:
    quick = {"timeout": 0.6, "retries": 6} if fault == "timeout" else {"retries": 6}
    requests = [request(f"Query {n // 2}", sample=n % 2) for n in range(40)]
    with StubServer(faults={fault: 0.3}, hang=60) as stub:
        replies = ask_all(ServerTalker(settings(stub, **quick)), *requests)
    assert stub.failed[fault] > 3
    assert stub.total <= 40 * 7
    for asked, reply in zip(requests, replies, strict=True):
        assert_not_invented(asked, reply)
    assert all(isinstance(reply, Reply) for reply in replies)


def assert_not_invented(asked: ChatRequest, reply: Any) -> None:
    """A reply is all that the server said, or half of it and marked so, or nothing; else it is an error."""
    if isinstance(reply, Reply):
        whole = expected(asked.messages[0].content, asked.sample)
        assert (reply.text, reply.finish) in ((whole, "stop"), (whole[: len(whole) // 2], "length"), ("", "stop"))
    else:
        assert isinstance(reply, RunFailed)


@pytest.mark.parametrize("seed", [1, 2])
def test_at_30_percent_of_all_faults_every_ask_ends_within_the_bound(seed: int) -> None:
    requests = [request(f"Query {n // 2}", sample=n % 2) for n in range(120)]
    with StubServer(faults=dict.fromkeys(FAULTS, 0.3 / len(FAULTS)), hang=60, seed=seed, ignore_n=seed == 2) as stub:
        talker = ServerTalker(settings(stub, timeout=0.5, retries=3))
        replies = ask_all(talker, *requests)
    assert len(stub.failed) == len(FAULTS)
    assert stub.total == talker.requests_sent <= 120 * 4
    for asked, reply in zip(requests, replies, strict=True):
        assert_not_invented(asked, reply)


def test_with_every_reply_failing_the_bound_is_reached_and_not_passed() -> None:
    with StubServer(faults={"error": 1.0}) as stub:
        results = ask_all(ServerTalker(settings(stub, retries=3)), request())
    assert stub.total == 4
    assert "in 4 attempts; the last time: HTTP 500: something broke" in str(results[0])
    assert type(results[0]) is RunFailed


def test_an_empty_reply_is_asked_for_once_more_and_then_believed() -> None:
    with StubServer(reply=lambda body, index: " ") as stub:
        replies = ask_all(ServerTalker(settings(stub)), request(), request(sample=1))
        assert [(reply.text, reply.finish) for reply in replies] == [(" ", "stop")] * 2
        assert [body.get("n", 1) for body in stub.bodies] == [2, 1, 1]
        ask_all(ServerTalker(settings(stub, retries=0)), request())
        assert stub.total == 4


def test_a_server_is_left_alone_for_as_long_as_it_asks() -> None:
    """Also by requests that are new, and none of them is lost for it."""
    with StubServer(faults={"too_many_wait": 0.5}, retry_after="0.4") as stub:
        replies = ask_all(ServerTalker(settings(stub, concurrency=1)), *(request(f"{n}") for n in range(4)))
    assert all(isinstance(reply, Reply) for reply in replies)
    gaps = [after - before for before, after in zip(stub.times, stub.times[1:], strict=False)]
    assert sum(gap >= 0.4 for gap in gaps) >= stub.failed["too_many_wait"] > 0


def test_a_wait_that_is_too_long_is_a_clear_error() -> None:
    with StubServer(faults={"too_many_wait": 1.0}, retry_after="3600") as stub:
        (error,) = ask_all(ServerTalker(settings(stub)), request())
    assert stub.total == 1
    assert "it asks to wait for 3600 seconds, and max_wait is 120" in str(error)
    assert isinstance(error, RunFailed)


def test_requests_are_bounded_and_shared_among_endpoints() -> None:
    with StubServer(latency=0.2) as first, StubServer(latency=0.2) as second:
        talker = ServerTalker(settings(first, second, concurrency=3))
        ask_all(talker, *(request(f"{n}") for n in range(24)))
    assert (first.most_in_flight, second.most_in_flight) == (3, 3)
    assert abs(first.total - second.total) <= 2
    assert first.total + second.total == 24


def test_one_dead_endpoint_of_two_loses_nothing() -> None:
    with StubServer() as first, StubServer() as second:
        second.stop()
        replies = ask_all(ServerTalker(settings(first, second, backoff=0.05)), *(request(f"{n}") for n in range(20)))
    assert [reply.text for reply in replies] == [expected(f"{n}") for n in range(20)]


def test_a_server_that_dies_on_the_way_is_one_clear_error_for_all() -> None:
    async def work(server: ServerTalker) -> list[Any]:
        first = await server.ask(request())
        stub.stop()
        asks = (server.ask(request(f"{n}")) for n in range(50))
        return [first, *await asyncio.gather(*asks, return_exceptions=True)]

    with StubServer() as stub:
        talker = ServerTalker(settings(stub, retries=2, concurrency=5), log=lambda: " LOG")
        begun = time.monotonic()
        first, *rest = talk(talker, work)
    assert isinstance(first, Reply)
    assert {type(error) for error in rest} == {RunFailed}
    assert f"{stub.url} (stub) gave no reply" in str(rest[-1])
    assert "nobody can be reached there" in str(rest[-1])
    assert str(rest[-1]).endswith("go on when it is back. LOG")
    assert time.monotonic() - begun < 60


def test_a_request_that_the_server_refuses_is_a_matter_of_that_request() -> None:
    with StubServer(longest=10) as stub:
        good, bad = ask_all(ServerTalker(settings(stub)), request(), request("x" * 20))
        assert isinstance(good, Reply)
        assert type(bad) is NoReply
        assert "the maximum context length is exceeded" in str(bad)
        assert stub.total == 2
        stub.longest = 0
        refused = ask_all(ServerTalker(settings(stub)), *(request(f"{n}") for n in range(6)))
    assert [type(error) for error in refused].count(ConfigError) == 2  # with nothing answered, it is not the requests


def test_one_request_that_fails_while_others_are_answered_is_no_reply() -> None:
    def reply(body: dict[str, Any], index: int) -> str:
        return "fine"

    async def work(server: ServerTalker) -> list[Any]:
        slow = asyncio.create_task(server.ask(request("never")))
        while not slow.done():
            await server.ask(request(f"{stub.total}"))
        return await asyncio.gather(slow, return_exceptions=True)

    with StubServer(reply=reply) as stub:
        stub._fault = lambda body: "error" if body["messages"][-1]["content"] == "never" else None  # type: ignore
        (error,) = talk(ServerTalker(settings(stub, retries=2)), work)
    assert type(error) is NoReply


def test_a_cancelled_ask_gives_its_place_back() -> None:
    async def work(server: ServerTalker) -> Reply:
        asks = [asyncio.create_task(server.ask(request(f"{n}"))) for n in range(3)]
        while stub.total < 1:
            await asyncio.sleep(0.01)
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        stub.latency = 0.0
        return await server.ask(request())

    with StubServer(latency=30) as stub:
        reply = talk(ServerTalker(settings(stub, concurrency=1)), work)
    assert reply.text == expected()
    assert stub.total == 2


def test_a_talker_serves_one_event_loop_after_the_other() -> None:
    with StubServer() as stub:
        talker = ServerTalker(settings(stub))
        assert [ask_all(talker, request(f"{n}"))[0].text for n in range(3)] == [expected(f"{n}") for n in range(3)]


def test_the_proxy_of_the_environment_is_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with StubServer() as stub:
        assert isinstance(ask_all(ServerTalker(settings(stub)), request())[0], Reply)


# What is wrong before anything expensive


def checked(*stubs: StubServer, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        talk(ServerTalker(settings(*stubs, **changes)), lambda server: server.check())
    return str(caught.value)


def test_a_check_of_a_good_server_costs_nothing() -> None:
    with StubServer() as first, StubServer() as second:
        talk(ServerTalker(settings(first, second)), lambda server: server.check())
        assert first.total + second.total == 0
    with StubServer(lists_models=False, refuse=("max_tokens",)) as stub:
        talk(ServerTalker(settings(stub)), lambda server: server.check())
        assert stub.total == 2
        assert stub.bodies[-1]["max_completion_tokens"] == 16


def test_a_wrong_address_is_said_before_the_first_request() -> None:
    with StubServer() as stub:
        message = checked(stub, base_url=stub.url.removesuffix("/v1"))
        assert "HTTP 404" in message
        assert "An address usually ends in /v1" in message
        stub.stop()
        assert "nobody can be reached there" in checked(stub)


def test_a_wrong_model_is_said_with_those_that_there_are() -> None:
    with StubServer() as stub:
        message = checked(stub, model="stab")
        assert "The model asked for is 'stab'; the server lists stub, other. Did you mean stub?" in message
        stub.lists_models = False
        assert "Check the name of the model, 'stab'." in checked(stub, model="stab")


def test_a_wrong_model_is_said_by_a_server_that_hangs_up_after_failing_to_list_its_models() -> None:
    with StubServer(lists_models=False) as stub:
        answer, chats = stub._answer, []

        async def hang_up_once(method: str, path: str, headers: dict[str, str], content: bytes) -> Any:
            chats.append(path.endswith("/chat/completions"))
            return None if sum(chats) == 1 and chats[-1] else await answer(method, path, headers, content)

        stub._answer = hang_up_once  # type: ignore[method-assign]
        assert "Check the name of the model, 'stab'." in checked(stub, model="stab")
        assert sum(chats) == 2


def test_a_missing_and_a_wrong_key_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with StubServer(key=KEY) as stub:
        monkeypatch.delenv("STUB_KEY", raising=False)
        with pytest.raises(ConfigError, match="STUB_KEY, which is not set"):
            ServerTalker(settings(stub, api_key_env="STUB_KEY"))
        assert "into api_key_env" in checked(stub)
        monkeypatch.setenv("STUB_KEY", "wrong-key-987")
        message = checked(stub, api_key_env="STUB_KEY")
        assert "HTTP 401" in message
        assert "Check the key in STUB_KEY" in message
        assert "wrong-key-987" not in message
        (error,) = ask_all(ServerTalker(settings(stub, api_key_env="STUB_KEY")), request())
        assert type(error) is ConfigError
        assert stub.total == 0


def test_the_key_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("STUB_KEY", KEY)
    caplog.set_level(0)
    with StubServer(key=KEY) as stub:
        talker = ServerTalker(settings(stub, api_key_env="STUB_KEY"))
        assert isinstance(ask_all(talker, request())[0], Reply)
        assert stub.headers[-1]["authorization"] == f"Bearer {KEY}"
        stub.key = "another"  # the server now repeats what it was sent
        (error,) = ask_all(talker, request("Ho"))
    assert type(error) is RunFailed  # it worked before: the settings are not to blame
    assert "wrong key: Bearer [key]" in str(error)
    shown = [*traceback.format_exception(error), caplog.text, repr(talker), repr(vars(talker)), repr(talker.settings)]
    assert [text for text in [*shown, talker.settings.model_dump_json(), talker.name] if KEY in text] == []


def test_the_organisation_of_the_environment_is_not_told_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StubServer() as stub:
        ask_all(ServerTalker(settings(stub)), request())
    assert "org-1" not in str(stub.headers)
    assert KEY not in str(stub.headers)
