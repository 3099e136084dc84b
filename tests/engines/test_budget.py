"""The budget: never overstepped, reserved before it is sent, settled with what was really used."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.stub_server import StubServer
from windvane.engines.budget import Budget, BudgetSettings, Planned, Price, Spend, prompt_bound
from windvane.engines.journal import ReplyJournal
from windvane.engines.metering import Usage
from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.engines.server import ServerSettings, ServerTalker
from windvane.engines.talkers import ScriptedTalker
from windvane.errors import BudgetSpent, ConfigError, NoReply, RunFailed, UserError
from windvane.types import Message, Sampling

PRICES = {"judge": Price(prompt=2.0, completion=8.0), "model": Price(prompt=0.5, completion=1.0)}


def request(text: str = "Hi", sample: int = 0, room: int = 32) -> ChatRequest:
    return ChatRequest((Message(role="user", content=text),), Sampling(room, 0.7), sample)


def reply(prompt: int = 10, completion: int = 20, *, estimated: bool = False) -> Reply:
    return Reply(
        text="x", finish="stop", prompt_tokens=prompt, completion_tokens=completion, estimated=estimated
    )  # fmt: skip


def ask(talker: Talker, *requests: ChatRequest) -> list[Any]:
    async def work() -> list[Any]:
        return await asyncio.gather(*map(talker.ask, requests), return_exceptions=True)

    return asyncio.run(work())


def test_the_bound_of_a_prompt_by_hand() -> None:
    assert prompt_bound(request("ab")) == 2 + 16 + 128
    assert prompt_bound(request("ä😀")) == 6 + 16 + 128
    assert prompt_bound(request("ab")._replace(schema={"a": 1})) == 2 + 8 + 16 + 128


def test_the_bound_of_a_prompt_is_above_what_tokenizers_make_of_it(tiny_model_folder: Path) -> None:
    """The tiny tokenizer makes one token of each byte, the most that any can."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    for text in ("", "Hi", "ä😀\n\t  x", "<|im_end|>" * 9, "zażółć gęślą jaźń"):
        asked = request(text)
        turns = [message.model_dump() for message in asked.messages]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert len(ids) <= prompt_bound(asked)


def test_what_was_really_used_is_settled_by_hand() -> None:
    budget = Budget(BudgetSettings(money=1.0, prices=PRICES))
    ask(budget.talker("judge", ScriptedTalker(lambda _: reply())), request())
    ask(budget.talker("model", ScriptedTalker(lambda _: reply())), request(), request(sample=1))
    assert budget.usage() == {"judge": Usage(1, 10, 20), "model": Usage(2, 20, 40)}
    assert budget.spent == Spend(calls=3, tokens=90, money=(10 * 2 + 20 * 8 + 20 * 0.5 + 40 * 1) / 1e6)
    assert budget.in_flight == Spend(0, 0, 0.0)


def test_calls_end_exactly_at_the_limit() -> None:
    budget = Budget(BudgetSettings(calls=5))
    inner = ScriptedTalker(lambda _: reply(), latency=0.01)
    found = ask(budget.talker("judge", inner), *(request(sample=n) for n in range(9)))
    assert [type(one) for one in found] == [Reply] * 5 + [BudgetSpent] * 4
    assert len(inner.calls) == 5
    assert "budget.calls is 5, and 5 of it is spent: one more request of judge" in str(found[-1])
    assert "Raise budget.calls" in str(found[-1])


def test_the_exception_is_neither_a_mistake_nor_a_failure() -> None:
    """A search that takes what fails for one request as unscored must not take this for it."""
    assert not issubclass(BudgetSpent, UserError | RunFailed)


def test_a_request_waits_for_room_that_others_hold_and_do_not_need() -> None:
    """The bound is 250 tokens, the real use 30: one after the other, 26 fit into 1000 (25 * 30 + 250), not 4."""
    bound = prompt_bound(request()) + 104
    assert bound == 250
    budget = Budget(BudgetSettings(tokens=1000))
    inner = ScriptedTalker(lambda _: reply(), latency=0.002)
    found = ask(budget.talker("judge", inner), *(request(sample=n, room=104) for n in range(40)))
    assert [isinstance(one, Reply) for one in found] == [True] * 26 + [False] * 14
    assert 2 <= inner.most_in_flight <= 4
    assert budget.spent.tokens == 26 * 30


def test_a_request_that_never_fits_is_refused_at_once_and_costs_nothing() -> None:
    budget = Budget(BudgetSettings(tokens=100))
    inner = ScriptedTalker(lambda _: reply())
    assert isinstance(ask(budget.talker("judge", inner), request())[0], BudgetSpent)
    assert (inner.calls, budget.spent) == ([], Spend(0, 0, 0.0))


@pytest.mark.parametrize("seed", range(4))
def test_200_random_requests_at_once_never_overstep(seed: int) -> None:
    """At no moment is what was spent and what is in flight above a limit; what counts is what the stub says."""
    chance = random.Random(seed)
    limits = BudgetSettings(calls=chance.choice([50, 500]), tokens=15_000, money=0.03, prices=PRICES)
    budget = Budget(limits)
    real: list[Spend] = []

    def answer(asked: ChatRequest) -> Reply:
        room, text = asked.sampling.max_new_tokens, asked.messages[0].content
        now = budget.spent.tokens + budget.in_flight.tokens
        assert now <= 15_000
        assert budget.spent.money + budget.in_flight.money <= 0.03
        if chance.random() < 0.1:
            raise NoReply("lost, and perhaps charged for")
        said = reply(len(text), chance.randint(0, room))
        price = PRICES["judge" if "judge" in text else "model"]
        money = (said.prompt_tokens * price.prompt + said.completion_tokens * price.completion) / 1e6
        real.append(Spend(1, said.prompt_tokens + said.completion_tokens, money))
        return said

    async def work() -> list[Any]:
        inner = ScriptedTalker(answer, latency=lambda asked: asked.sample % 7 / 1000)
        talkers = {role: budget.talker(role, inner) for role in PRICES}
        asks = []
        for number in range(200):
            role = chance.choice(list(PRICES))
            asks.append(
                talkers[role].ask(request(f"{role} {'x' * chance.randint(0, 99)}", number, chance.randint(1, 300)))
            )
        tasks = list(map(asyncio.ensure_future, asks))
        await asyncio.sleep(0.004)
        for task in chance.sample(tasks, 10):
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(work())
    assert any(isinstance(one, BudgetSpent) for one in found)
    total = Spend(*map(sum, zip(*real, strict=True)))
    assert total.calls <= budget.spent.calls <= (limits.calls or 0)
    assert total.tokens <= budget.spent.tokens <= 15_000
    assert total.money <= budget.spent.money + 1e-12 <= 0.03 + 2e-12
    assert budget.in_flight == Spend(0, 0, 0.0)
    assert budget.spent.tokens > 10_000 or budget.spent.calls == limits.calls or budget.spent.money > 0.02


def test_an_estimate_counts_in_full() -> None:
    budget = Budget(BudgetSettings())
    ask(budget.talker("judge", ScriptedTalker(lambda _: reply(1, 1, estimated=True))), request())
    assert budget.usage()["judge"] == Usage(1, prompt_bound(request()), 32)


def test_replies_on_file_cost_nothing_and_earlier_ones_count(tmp_path: Path) -> None:
    """The same run, interrupted and resumed, spends no more than an uninterrupted one."""
    limits = BudgetSettings(calls=5)
    for asked, calls in ((3, 3), (9, 2), (9, 0)):
        with ReplyJournal(tmp_path / "r.jsonl") as journal:
            budget = Budget(limits, earlier=journal.usage())
            inner = ScriptedTalker(lambda _: reply())
            talker = journal.talker(budget.talker("judge", inner), role="judge")
            found = ask(talker, *(request(sample=n) for n in range(asked)))
            assert len(inner.calls) == calls
            assert sum(isinstance(one, Reply) for one in found) == min(asked, 5)
            assert budget.usage() == journal.usage()


@pytest.mark.parametrize("fault", ["error", "too_many", "timeout", "malformed", "dropped"])
def test_retries_are_counted_and_those_that_may_be_charged_for_in_full(fault: str) -> None:
    """Ten asks, a third of the replies failing. A refusal costs a call, a lost reply also its tokens."""
    each = Usage(1, prompt_bound(request("q 0")), 32)
    with StubServer(faults={fault: 0.3}, hang=60) as stub:
        settings = ServerSettings(
            model="stub",
            base_url=stub.url,
            backoff=0.002,
            timeout=1.5 if fault == "timeout" else 60.0,
            samples_per_request=1,
        )
        budget = Budget(BudgetSettings())
        server = ServerTalker(settings)

        async def work() -> None:
            async with server:
                talker = budget.talker("judge", server)
                await asyncio.gather(*(talker.ask(request(f"q {n}")) for n in range(10)))

        asyncio.run(work())
    failed = stub.failed[fault]
    assert failed > 0
    assert budget.spent.calls == stub.total == 10 + failed
    lost = 0 if fault in ("error", "too_many") else failed * each.tokens
    answered = stub.tokens - (failed * 11 if fault == "malformed" else 0)
    assert budget.spent.tokens == answered + lost


@pytest.mark.parametrize("calls", [7, 12, 30])
def test_with_faults_and_samples_the_server_never_gets_more_calls_than_the_budget(calls: int) -> None:
    shares = {"error": 0.1, "malformed": 0.1, "empty": 0.1}
    with StubServer(faults=shares, seed=calls, latency=0.005) as stub:
        budget = Budget(BudgetSettings(calls=calls))
        server = ServerTalker(ServerSettings(model="stub", base_url=stub.url, backoff=0.002))

        async def work() -> list[Any]:
            async with server:
                talker = budget.talker("judge", server)
                asks = (talker.ask(request(f"q {n // 3}", n % 3)) for n in range(45))
                return await asyncio.gather(*asks, return_exceptions=True)

        found = asyncio.run(work())
    assert stub.total <= budget.spent.calls <= calls
    assert {type(one) for one in found} <= {Reply, BudgetSpent, NoReply, RunFailed}
    assert any(isinstance(one, BudgetSpent) for one in found)


def test_a_refused_request_gives_its_tokens_back() -> None:
    with StubServer(longest=1) as stub:
        budget = Budget(BudgetSettings())
        server = ServerTalker(ServerSettings(model="stub", base_url=stub.url))

        async def work() -> list[Any]:
            async with server:
                return await asyncio.gather(budget.talker("judge", server).ask(request()), return_exceptions=True)

        (error,) = asyncio.run(work())
    assert type(error) is NoReply
    assert budget.spent == Spend(1, 0, 0.0)


def test_the_upper_bound_of_a_plan_by_hand() -> None:
    plan = [Planned("judge", Usage(1, 1000, 100), 50), Planned("model", Usage(2, 500, 200), 10)]
    free = Budget(BudgetSettings(prices=PRICES)).upper_bound(plan)
    assert free[:2] == (70, 50 * 1100 + 10 * 700)
    assert free.money == pytest.approx((50_000 * 2 + 5000 * 8 + 5000 * 0.5 + 2000 * 1) / 1e6)
    limited = Budget(BudgetSettings(calls=40, prices=PRICES), earlier={"judge": Usage(15, 0, 0)})
    assert limited.upper_bound(plan) == free._replace(calls=25)
    assert str(free) == "70 calls, 62000 tokens and 0.1445 of money"
    assert str(Spend(1, 2, 0.0)) == "1 calls, 2 tokens"


def test_money_without_a_price_is_refused_before_the_first_call() -> None:
    budget = Budget(BudgetSettings(money=1.0, prices={"judge": PRICES["judge"]}))
    with pytest.raises(ConfigError, match=r"nobody knows what optimizer costs: set budget\.prices\.optimizer"):
        budget.talker("optimizer", ScriptedTalker(lambda _: "x"))
    budget.talker("model", ScriptedTalker(lambda _: "x"), free=True)


@pytest.mark.parametrize("limits", [{"calls": 0}, {"tokens": 0}, {"money": 0.0}, {"calls": -1}, {"calls": 1.5}])
def test_a_budget_of_nothing_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BudgetSettings(**limits)


def test_one_budget_serves_one_event_loop_after_the_other() -> None:
    budget = Budget(BudgetSettings(tokens=1000))
    talker = budget.talker("judge", ScriptedTalker(lambda _: reply(), latency=0.001))
    for _ in range(3):
        assert all(isinstance(one, Reply) for one in ask(talker, *(request(sample=n, room=104) for n in range(6))))
    assert budget.spent.tokens == 18 * 30


def test_a_repeat_never_waits_for_who_waits_for_it() -> None:
    """A refused request still holds its tokens when it is sent again; the next in line may need just those."""

    async def work() -> None:
        budget = Budget(BudgetSettings(tokens=100))
        first = await budget.reserve("judge", Usage(1, 60, 0))
        second = asyncio.create_task(budget.reserve("judge", Usage(1, 60, 0)))
        await asyncio.sleep(0)
        await asyncio.wait_for(first.again(charged=False), 5)
        assert not second.done()
        first.settle(reply(prompt=40, completion=0))
        (await second).close()
        assert budget.spent == Spend(3, 100, 0.0)

    asyncio.run(work())
