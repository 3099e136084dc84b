from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from tests import tiny
from windvane.engines.chat import ChatFormat
from windvane.engines.decoding import common_prefix, like_lengths
from windvane.engines.drawing import next_tokens, uniforms
from windvane.engines.local import LocalEngine
from windvane.engines.models import LoadedModel
from windvane.engines.settings import EngineSettings
from windvane.errors import ConfigError, DataError, ModelError
from windvane.types import Completion, Message, Prompt, Sampling, ScoreRequest

pytestmark = pytest.mark.filterwarnings("ignore:.*falling back to its reference:UserWarning")

FAMILIES = list(tiny.FAMILIES)
SYSTEM = Message(role="system", content="A system message that all prompts of this test share.")
SEEDED = Sampling(max_new_tokens=20, temperature=0.9, top_p=0.9)
GREEDY = Sampling(max_new_tokens=20, temperature=0)


def engine(model: PreTrainedModel | None = None, *, pad_token: str = "<pad>", **settings: int) -> LocalEngine:
    tokenizer = tiny.tokenizer(pad_token=pad_token)
    loaded = LoadedModel(model or tiny.model(), tokenizer, ChatFormat(tokenizer), "tiny")
    return LocalEngine(loaded, EngineSettings(**settings))


def prompts(count: int = 8) -> list[Prompt]:
    texts = ["Hi", "Why is the sky blue?", "Name three rivers of Asia and their sources.", "ok " * 20]
    return [Prompt((SYSTEM, Message(role="user", content=texts[i % 4] + "!" * (i // 4))), seed=i) for i in range(count)]


def counting(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Shapes [rows, width] of everything that goes through the model from now on."""
    shapes: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def naive_greedy(model: PreTrainedModel, ids: Sequence[int], count: int, stop: frozenset[int]) -> list[int]:
    """One sequence, no cache, no batch."""
    row = list(ids)
    for _ in range(count):
        with torch.no_grad():
            row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
        if row[-1] in stop:
            break
    return row[len(ids) :]


def naive_logprob(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> float:
    row = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logprobs = model(row).logits[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, row.shape[1] - 1)
    return sum(float(logprobs[place, token]) for place, token in zip(places, response, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_responses_equal_a_naive_loop_for_each_sequence(family):
    e = engine(tiny.model(family))
    stop = e.loaded.stop_ids
    for prompt, completion in zip(prompts(), e.generate(prompts(), GREEDY), strict=True):
        ids = e.loaded.chat.prompt_ids(prompt.messages)
        assert list(completion.token_ids) == naive_greedy(e.loaded.model, ids, GREEDY.max_new_tokens, stop)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_a_response_does_not_depend_on_its_batch(family, sampling):
    together, alone = engine(tiny.model(family)), engine(tiny.model(family), batch_rows=1)
    expected = together.generate(prompts(), sampling)
    assert alone.generate(prompts(), sampling) == expected
    assert together.generate(prompts()[::-1], sampling)[::-1] == expected


def test_pad_equal_to_eos_and_another_pad_give_the_same():
    assert engine(pad_token="<|im_end|>").generate(prompts(), SEEDED) == engine().generate(prompts(), SEEDED)


def test_another_seed_gives_another_response_and_the_same_seed_the_same():
    e = engine()
    first, again, other = e.generate([prompts(1)[0]._replace(seed=s) for s in (1, 1, 2)], SEEDED)
    assert first == again
    assert first != other


def test_stop_and_length_are_told_apart_and_only_stop_ends_with_an_end_token():
    e = engine()
    hot = Sampling(max_new_tokens=60, temperature=1.5)
    completions = e.generate([p._replace(seed=s) for s in range(4) for p in prompts()], hot)
    assert {c.finish for c in completions} == {"stop", "length"}
    for completion in completions:
        ends = [token in e.loaded.stop_ids for token in completion.token_ids]
        assert ends[-1] == (completion.finish == "stop")
        assert not any(ends[:-1])
        assert completion.text == e.loaded.chat.decode(completion.token_ids)
        assert "<|im_end|>" not in completion.text
        assert completion.finish == "stop" or len(completion.token_ids) == 60
    assert e.tokens_generated == sum(len(c.token_ids) for c in completions)


def test_every_end_token_of_the_generation_config_stops():
    model = tiny.model()
    first = engine(model).generate(prompts(1), GREEDY)[0].token_ids
    model.generation_config.eos_token_id = [2, first[3]]
    stopped = engine(model).generate(prompts(1), GREEDY)[0]
    assert stopped.token_ids == first[: first.index(first[3]) + 1]
    assert stopped.finish == "stop"


@pytest.mark.parametrize("family", ["llama", "mamba2"])
def test_finished_rows_leave_the_batch(family):
    model = tiny.model(family)
    shapes = counting(model)
    same_length = [Prompt((Message(role="user", content="Hello"),), seed) for seed in range(32)]
    completions = engine(model).generate(same_length, Sampling(60, temperature=1.5))
    lengths = [len(c.token_ids) for c in completions]
    assert min(lengths) < max(lengths)
    steps = [rows for rows, _ in shapes[1 - max(lengths) :]]  # all passes after the prompts'
    assert steps == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def test_a_common_prefix_is_computed_once_and_changes_nothing():
    model = tiny.model()
    shapes = counting(model)
    e = engine(model)
    ids = [e.loaded.chat.prompt_ids(p.messages) for p in prompts()]
    shared = common_prefix(ids)
    assert shared > 50
    one = Sampling(1, temperature=0)
    e.generate(prompts(), one)
    assert shapes[0] == (1, shared)
    rests = sum(len(row) - shared for row in ids)
    computed = sum(rows * width for rows, width in shapes[1:])
    assert rests <= computed <= 1.25 * rests, "like lengths go together, so little padding is computed"


def test_prompts_with_different_leading_turns_get_batches_of_their_own():
    model = tiny.model()
    shapes = counting(model)
    other = Message(role="system", content="B" * 60)
    mixed = [p for q in prompts() for p in (q, Prompt((other, *q.messages[1:]), q.seed))]
    e = engine(model)
    together = e.generate(mixed, SEEDED)
    assert [rows for rows, width in shapes if width > 50].count(1) == 2, "each system message is computed once"
    assert together == engine(batch_rows=1).generate(mixed, SEEDED)


def test_a_batch_holds_no_more_rows_and_tokens_than_asked():
    model = tiny.model()
    shapes = counting(model)
    engine(model, batch_rows=3).generate(prompts(), GREEDY)
    assert max(rows for rows, _ in shapes) <= 3
    shapes.clear()
    engine(model, batch_tokens=300).generate(prompts(), GREEDY)
    assert max(rows for rows, _ in shapes) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_a_naive_computation_for_each_sequence(family):
    e = engine(tiny.model(family))
    replies = e.generate(prompts(), SEEDED)
    requests = [ScoreRequest(p.messages, (r, replies[0])) for p, r in zip(prompts(), replies, strict=True)]
    for request, scores in zip(requests, e.score(requests), strict=True):
        prompt = e.loaded.chat.prompt_ids(request.messages)
        for response, score in zip(request.responses, scores, strict=True):
            expected = naive_logprob(e.loaded.model, prompt, response.token_ids)
            assert score.sum == pytest.approx(expected, abs=2e-3 if family == "mamba2" else 2e-4)
            assert score.tokens == len(response.token_ids)
    assert e.tokens_scored == sum(len(r.token_ids) for q in requests for r in q.responses)


def test_scores_do_not_depend_on_the_batch_nor_on_the_order():
    e, small = engine(), engine(score_tokens=1)
    requests = [ScoreRequest(p.messages, (r,)) for p, r in zip(prompts(), e.generate(prompts(), SEEDED), strict=True)]
    scores = [s[0].sum for s in e.score(requests)]
    assert [s[0].sum for s in small.score(requests)] == pytest.approx(scores, abs=1e-4)
    assert [s[0].sum for s in e.score(requests[::-1])][::-1] == pytest.approx(scores, abs=1e-4)


def test_scores_are_of_the_raw_distribution_and_follow_the_weights():
    e = engine()
    reply = e.generate(prompts(1), Sampling(5, temperature=0.1, top_p=0.1))[0]
    request = ScoreRequest(prompts(1)[0].messages, (reply,))
    before = e.score([request])[0][0].sum
    assert before < -0.1, "under the sharpened distribution it would be about 0"
    with torch.no_grad():
        e.loaded.model.lm_head.weight.mul_(0.5)
    after = e.score([request])[0][0].sum
    ids = e.loaded.chat.prompt_ids(request.messages)
    assert after == pytest.approx(naive_logprob(e.loaded.model, ids, reply.token_ids), abs=2e-4)
    assert after != pytest.approx(before, abs=1e-2)


def test_generation_follows_the_weights():
    e = engine()
    before = e.generate(prompts(2), GREEDY)
    with torch.no_grad():
        e.loaded.model.lm_head.weight.neg_()
    after = e.generate(prompts(2), GREEDY)
    assert after != before
    ids = e.loaded.chat.prompt_ids(prompts(1)[0].messages)
    assert list(after[0].token_ids) == naive_greedy(e.loaded.model, ids, 20, e.loaded.stop_ids)


def test_empty_responses_cannot_be_scored():
    empty = Completion(text="", token_ids=(), finish="length")
    with pytest.raises(DataError, match=r"'Hi'.*no tokens"):
        engine().score([ScoreRequest(prompts(1)[0].messages, (empty,))])
    with pytest.raises(DataError, match="no response to score"):
        engine().score([ScoreRequest(prompts(1)[0].messages, ())])


def test_a_query_longer_than_the_model_is_named_before_anything_is_computed():
    model = tiny.model(max_position_embeddings=128)
    shapes = counting(model)
    long = Prompt((Message(role="user", content="long query " * 12),), 0)
    with pytest.raises(
        DataError, match=r"'long query long.*takes 1\d\d tokens.*20 more.*'tiny' takes 128.*max_new_tokens"
    ):
        engine(model).generate([*prompts(1), long], GREEDY)
    reply = Completion(text="x", token_ids=(70,) * 100, finish="length")
    with pytest.raises(DataError, match="takes 128"):
        engine(model).score([ScoreRequest(prompts(1)[0].messages, (reply,))])
    assert shapes == []


def test_weights_that_turn_nan_are_reported_and_not_sampled_from():
    e = engine()
    reply = e.generate(prompts(1), GREEDY)[0]
    with torch.no_grad():
        e.loaded.model.lm_head.weight[7] = float("nan")
    with pytest.raises(ModelError, match=r"NaN or infinite logits.*engine\.dtype"):
        e.generate(prompts(2), SEEDED)
    with pytest.raises(ModelError, match=r"NaN or infinite log-probabilities.*engine\.dtype"):
        e.score([ScoreRequest(prompts(1)[0].messages, (reply,))])


def test_progress_counts_every_request_once():
    seen: list[int] = []
    e = engine(batch_rows=3)
    replies = e.generate(prompts(), GREEDY, advance=seen.append)
    assert sum(seen) == 8
    e.score([ScoreRequest(prompts(1)[0].messages, (r,)) for r in replies], advance=seen.append)
    assert sum(seen) == 16


@pytest.mark.parametrize(
    ("sampling", "told"),
    [(Sampling(0), "max_new_tokens is 0"), (Sampling(4, -1.0), "temperature"), (Sampling(4, 1.0, 0), "top_p")],
)
def test_sampling_that_makes_no_sense_is_refused(sampling, told):
    with pytest.raises(ConfigError, match=told):
        engine().generate(prompts(1), sampling)


def test_dropout_of_a_model_in_training_is_off_and_the_model_stays_in_training():
    model = tiny.model(attention_dropout=0.5).train()
    e, quiet = engine(model), engine()
    replies = e.generate(prompts(), GREEDY)
    assert replies == quiet.generate(prompts(), GREEDY)
    requests = [ScoreRequest(prompts(1)[0].messages, (replies[0],))]
    assert e.score(requests)[0][0].sum == pytest.approx(quiet.score(requests)[0][0].sum, abs=1e-4)
    assert model.training


def test_nothing_asked_nothing_done():
    assert engine().generate([], GREEDY) == []
    assert engine().score([]) == []


def test_uniform_numbers_depend_on_seed_and_position_alone():
    table = uniforms([3, 4, 3], 1000)
    assert torch.equal(table[0], table[2])
    assert torch.equal(uniforms([3], 10), table[:1, :10])
    assert not torch.equal(table[0], table[1])
    assert 0 <= table.min() < table.max() < 1
    assert table[:2].mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("top_p", [0.3, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_drawing_equals_inverse_transform_over_the_sorted_vocabulary(top_p, spread):
    torch.manual_seed(1)
    logits = torch.randn(50, 3000) * spread + torch.linspace(0, 1e-2, 3000)  # ties would leave the order open
    uniform = uniforms(range(50), 1)[:, 0]
    sampling = Sampling(1, temperature=0.7, top_p=top_p)
    chosen = next_tokens(logits, sampling, uniform)
    probabilities, order = (logits / 0.7).softmax(-1).sort(descending=True)
    mass = probabilities.double().cumsum(-1)
    for row in range(50):
        size = int((mass[row] < top_p).sum().clamp(max=2999)) if top_p < 1 else 2999
        goal = uniform[row] * (mass[row, size] if top_p < 1 else 1.0)
        expected = min(int((mass[row] <= goal).sum()), size)
        assert chosen[row] == order[row, expected]


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(20000, 1)
    uniform = uniforms(range(20000), 1)[:, 0]
    share = next_tokens(logits, Sampling(1), uniform).bincount(minlength=4) / 20000
    assert share.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)
    nucleus = next_tokens(logits, Sampling(1, top_p=0.7), uniform).bincount(minlength=4) / 20000
    assert nucleus.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.015)


def test_the_common_prefix_leaves_every_sequence_a_token():
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2, 3], [1, 2]]) == 1
    assert common_prefix([[1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 3]]) == 2
    assert common_prefix([[1], [2, 3]]) == 0


def test_runs_of_like_length_keep_the_order_and_lose_nothing():
    sequences = [[0] * n for n in (100, 90, 79, 78, 20, 30)]
    runs = like_lengths(sequences)
    assert [[len(s) for s in run] for run in runs] == [[100, 90], [79, 78], [20], [30]]
