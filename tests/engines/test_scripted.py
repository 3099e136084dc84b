import pytest

from windvane.engines.protocols import Generator, Scorer
from windvane.engines.scripted import ScriptedEngine
from windvane.errors import DataError, RunFailed
from windvane.types import Completion, Message, Prompt, Sampling, ScoreRequest

HI = (Message(role="user", content="Hi"),)


def test_it_is_a_generator_and_a_scorer():
    engine = ScriptedEngine()
    generator: Generator = engine
    scorer: Scorer = engine
    assert generator is scorer


def test_a_list_is_handed_out_in_order_and_running_out_is_an_error():
    engine = ScriptedEngine(["one", "two"])
    texts = [c.text for c in engine.generate([Prompt(HI, 0), Prompt(HI, 1)], Sampling(8))]
    assert texts == ["one", "two"]
    with pytest.raises(RunFailed, match="2 answers"):
        engine.generate([Prompt(HI, 2)], Sampling(8))


def test_a_function_answers_by_prompt_and_the_limit_cuts_without_an_end_token():
    engine = ScriptedEngine(lambda prompt: f"seed {prompt.seed}")
    whole, cut = (engine.generate([Prompt(HI, 7)], Sampling(n))[0] for n in (7, 6))
    assert (whole.text, whole.finish, whole.token_ids[-1]) == ("seed 7", "stop", ScriptedEngine.END)
    assert (cut.text, cut.finish, len(cut.token_ids)) == ("seed 7", "length", 6)
    assert ScriptedEngine.END not in cut.token_ids


def test_scores_follow_the_script_and_an_empty_response_is_an_error():
    reply = ScriptedEngine(["ab"]).generate([Prompt(HI, 0)], Sampling(8))[0]
    assert ScriptedEngine().score([ScoreRequest(HI, (reply,))])[0][0].mean == -1.0
    halved = ScriptedEngine(logprob=lambda request, response: -0.5)
    assert halved.score([ScoreRequest(HI, (reply, reply))])[0][1].sum == -0.5
    with pytest.raises(DataError):
        halved.score([ScoreRequest(HI, (Completion(text="", token_ids=(), finish="length"),))])


def test_progress_is_reported():
    seen: list[int] = []
    ScriptedEngine(["a", "b"]).generate([Prompt(HI, 0)] * 2, Sampling(4), advance=seen.append)
    assert sum(seen) == 2
