"""The judge that reads the probabilities of five digits."""

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.judging.talkers import query, run
from windvane.engines.protocols import Advance, no_progress
from windvane.engines.scripted import ScriptedEngine
from windvane.errors import ConfigError, DataError, ModelError
from windvane.judging.digits import DigitJudge, DigitJudgeSettings, expectation
from windvane.types import Completion, Logprob, ScoreRequest

ONE = DigitJudgeSettings(names=("Clarity",))
FLAT = [0.2, 0.2, 0.2, 0.2, 0.2]


def rising(request: ScoreRequest) -> bool:
    return "1 is the worst and 5 the best" in request.messages[-1].content


def engine(up: Sequence[float], down: Sequence[float]) -> ScriptedEngine:
    """An engine that gives the digits 1 to 5 these probabilities on the scale and on the one upside down."""

    def logprob(request: ScoreRequest, response: Completion) -> float:
        probabilities = up if rising(request) else down
        return math.log(probabilities[int(response.text) - 1])

    return ScriptedEngine(logprob=logprob)


def score(up: Sequence[float], down: Sequence[float], settings: DigitJudgeSettings = ONE) -> float | None:
    return DigitJudge(engine(up, down), str.encode, settings).judge_all([(query(), "So.")])[0].score


def test_the_expected_digit_by_hand() -> None:
    """(1·0.1 + 2·0.1 + 3·0.1 + 4·0.3 + 5·0.2) / 0.8 = 2.8 / 0.8"""
    found = expectation([math.log(p) for p in (0.1, 0.1, 0.1, 0.3, 0.2)])
    assert found.digit == pytest.approx(3.5)
    assert found.mass == pytest.approx(0.8)
    assert expectation([-1000.0] * 5).digit == pytest.approx(3)
    assert expectation([-2000.0, -1000.0, -3000.0, -4000.0, -5000.0]).digit == pytest.approx(2)


def test_both_scales_are_averaged() -> None:
    """E₅ = 4 and E₁ = 1 + 0.5 = 1.5, so (4 + 6 - 1.5) / 2 = 4.25."""
    assert score([1e-9, 1e-9, 1e-9, 1, 1e-9], [0.5, 0.5, 1e-9, 1e-9, 1e-9]) == pytest.approx(4.25)


@pytest.mark.parametrize("favourite", range(5))
def test_a_liking_for_one_digit_cancels(favourite: int) -> None:
    """A model that writes one digit whatever the scale says knows nothing: the middle."""
    liking = [1.0 if digit == favourite else 1e-12 for digit in range(5)]
    assert score(liking, liking) == pytest.approx(3)


def test_turning_the_models_opinion_round_turns_the_score_round() -> None:
    up, down = [0.1, 0.2, 0.3, 0.3, 0.1], [0.3, 0.3, 0.2, 0.1, 0.1]
    there, back = score(up, down), score(up[::-1], down[::-1])
    assert there is not None
    assert back is not None
    assert there + back == pytest.approx(6)
    assert score(up, up[::-1]) == pytest.approx(sum(d * p for d, p in enumerate(up, start=1)))


def test_a_model_that_writes_no_digit_is_unscored() -> None:
    tiny = [1e-7] * 5
    judgement = DigitJudge(engine(FLAT, tiny), str.encode, ONE).judge_all([(query(), "So.")])[0]
    assert judgement.score is None
    assert judgement.aspects[0].unscored == "only 5e-07 of the probability is on a digit from 1 to 5"
    assert score(FLAT, tiny, ONE.model_copy(update={"least_mass": 0.0})) == pytest.approx(3)


def test_a_digit_may_be_several_tokens_and_is_not_ended() -> None:
    seen: list[Completion] = []

    def logprob(request: ScoreRequest, response: Completion) -> float:
        seen.append(response)
        return -1.0

    judge = DigitJudge(ScriptedEngine(logprob=logprob), lambda digit: [9, 8, ord(digit)], ONE)
    assert judge.judge_all([(query(), "So.")])[0].score == pytest.approx(3)
    assert seen[:5] == [
        Completion(text=digit, token_ids=(9, 8, ord(digit)), finish="length") for digit in ("1", "2", "3", "4", "5")
    ]
    assert len(seen) == 10


@pytest.mark.parametrize("encode", [lambda digit: [], lambda digit: [0], lambda digit: [min(ord(digit), 52)]])
def test_a_tokenizer_without_digits_is_refused(encode: Callable[[str], list[int]]) -> None:
    with pytest.raises(ModelError, match="does not tell the digits 1 to 5 apart"):
        DigitJudge(engine(FLAT, FLAT), encode, ONE).judge_all([(query(), "So.")])


def test_each_aspect_is_asked_for_twice_with_its_anchors_turned_round() -> None:
    requests: list[ScoreRequest] = []

    class Recording(ScriptedEngine):
        def score(
            self, requests_: Sequence[ScoreRequest], *, advance: Advance = no_progress
        ) -> list[tuple[Logprob, ...]]:
            requests.extend(requests_)
            return super().score(requests_, advance=advance)

    judge = DigitJudge(Recording(), str.encode)
    found = judge.judge_all([(query(), "So."), (query("Why not?", "q2"), "Because.")])
    assert [judgement.id for judgement in found] == ["q", "q2"]
    assert [a.aspect for a in found[0].aspects] == ["Helpfulness", "Clarity", "Factuality"]
    assert len(requests) == 2 * 3 * 2
    assert list(map(rising, requests)) == [True, False] * 6
    up, down = (request.messages[-1].content for request in requests[2:4])
    best, worst = "Each sentence says one thing", "The order, the wording"
    assert f"5: {best}" in up
    assert f"1: {worst}" in up
    assert f"1: {best}" in down
    assert f"5: {worst}" in down


def test_answers_that_wait_are_one_batch_and_a_cancelled_one_harms_nobody() -> None:
    sizes: list[int] = []

    class Counting(DigitJudge):
        def judge_all(self, answers):
            sizes.append(len(answers))
            return super().judge_all(answers)

    judge = Counting(engine(FLAT, FLAT), str.encode, ONE)

    async def many() -> list[float | None]:
        tasks = [asyncio.create_task(judge.judge(query(), f"Answer {number}")) for number in range(10)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        found = await asyncio.gather(*tasks[1:])
        late = await judge.judge(query(), "Late.")
        return [judgement.score for judgement in [*found, late]]

    assert run(many()) == pytest.approx([3] * 10)
    assert sum(sizes) in (10, 11)  # the cancelled one may have been on its way
    assert len(sizes) <= 3
    assert run(judge.aspects_for(query())).origin == "fixed"


def test_a_failure_reaches_everybody_who_waits() -> None:
    def logprob(request: ScoreRequest, response: Completion) -> float:
        raise DataError("too long")

    judge = DigitJudge(ScriptedEngine(logprob=logprob), str.encode, ONE)

    async def many() -> list[object]:
        return await asyncio.gather(*(judge.judge(query(), str(n)) for n in range(3)), return_exceptions=True)

    assert [str(failure) for failure in run(many())] == ["too long"] * 3


def test_an_unknown_aspect_is_refused() -> None:
    with pytest.raises(ConfigError, match="Clearness"):
        DigitJudge(engine(FLAT, FLAT), str.encode, DigitJudgeSettings(names=("Clearness",)))


def test_a_real_model_with_digits_of_one_byte(tiny_model_folder: Path) -> None:
    from windvane.engines.local import EngineSettings, LocalEngine, load_model

    settings = EngineSettings(device="cpu", dtype="float32")
    local = LocalEngine(load_model(str(tiny_model_folder), settings), settings)
    judge = DigitJudge(local, lambda text: local.loaded.chat.response_ids(text, "length"), ONE)
    first, second = judge.judge_all([(query("Why?"), "So."), (query("Why?"), "It scatters.")])
    assert first.score is not None
    assert 1 <= first.score <= 5
    assert first.score != second.score
    assert run(judge.judge(query("Why?"), "So.")).score == pytest.approx(first.score, abs=1e-4)
