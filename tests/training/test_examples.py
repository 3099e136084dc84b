"""From pairs to token ids to one batch of tensors."""

import pytest
import torch

from tests import tiny
from tests.training.pairs import ALL_VIEWS, END, examples
from windvane.data import OfflinePair
from windvane.engines.chat import ChatFormat
from windvane.engines.logprobs import choose_layout
from windvane.engines.sums import SequenceLogprobs
from windvane.errors import DataError
from windvane.training import encode_pair, encode_steering_pair, join_reference, score_reference
from windvane.training.examples import check_examples, make_batch
from windvane.types import Completion, Logprob, Message, Pair, PairScores, Principle, ScoredPair

CHAT = ChatFormat(tiny.tokenizer())
PROMPT = (Message(role="user", content="hi"),)


def completion(text, finish="stop"):
    return Completion(text=text, token_ids=CHAT.response_ids(text, finish), finish=finish)


def scored_pair():
    principle = Principle(query_id="p", features=("x",), good="G", bad="B", origin="user")
    pair = Pair(
        id="p", prompt=PROMPT, chosen=completion("good"), rejected=completion("a bad one", "length"),
        original=completion("so so"), principle=principle,
    )  # fmt: skip
    names = list(PairScores.model_fields)[:7]
    scores = {name: Logprob(sum=-float(number), tokens=3) for number, name in enumerate(names, start=1)}
    return ScoredPair(pair=pair, scores=PairScores(**scores))


def test_text_is_closed_with_the_end_of_the_turn_and_ids_are_taken_as_they_are():
    example = encode_pair(CHAT, OfflinePair(id="a", prompt=PROMPT, chosen="yes", rejected="no"))
    assert example.views["plain"].chosen[-1] == END
    sampled = encode_pair(
        CHAT, Pair(id="b", prompt=PROMPT, chosen=completion("yes", "length"), rejected=completion("no"))
    ).views["plain"]
    assert CHAT.decode(sampled.chosen) == "yes"
    assert sampled.chosen[-1] != END
    assert sampled.prompt == tuple(CHAT.prompt_ids(PROMPT))


def test_a_response_from_a_file_that_was_cut_off_is_not_closed():
    """`windvane pairs` writes the column, and TRL and others leave it alone."""
    cut = {"chosen_finish": "stop", "rejected_finish": "length"}
    pair = encode_pair(CHAT, OfflinePair(id="a", prompt=PROMPT, chosen="yes", rejected="no", extra=cut)).views["plain"]
    assert pair.chosen[-1] == END
    assert pair.rejected == CHAT.response_ids("no", "length")
    assert pair.rejected[-1] != END


def test_the_three_views_carry_the_right_responses_prompts_and_reference():
    example = encode_steering_pair(CHAT, scored_pair())
    texts = {view: (CHAT.decode(pair.chosen), CHAT.decode(pair.rejected)) for view, pair in example.views.items()}
    assert texts == {
        "plain": ("good", "a bad one"), "good": ("good", "a bad one"), "bad": ("so so", "good"),
    }  # fmt: skip
    prompts = [CHAT.tokenizer.decode(list(example.views[view].prompt)) for view in ALL_VIEWS]
    assert ["system\nG" in prompt for prompt in prompts] == [False, True, False]
    assert ["system\nB" in prompt for prompt in prompts] == [False, False, True]
    scores = scored_pair().scores
    assert example.reference == {
        "plain": (scores.chosen_plain.sum, scores.rejected_plain.sum),
        "good": (scores.chosen_good.sum, scores.rejected_good.sum),
        "bad": (scores.original_bad.sum, scores.chosen_bad.sum),
    }


def test_a_pair_without_principle_has_no_steered_views():
    scored = scored_pair()
    with pytest.raises(DataError, match="pair 'p' has no principle"):
        encode_steering_pair(
            CHAT, scored.model_copy(update={"pair": scored.pair.model_copy(update={"principle": None})})
        )


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [(completion("", "length"), completion("a"), "pair 'x': the chosen response is empty"),
     (completion("a"), completion("a"), "pair 'x': chosen and rejected are the same 2 tokens")],
)  # fmt: skip
def test_pairs_that_teach_nothing_are_refused(chosen, rejected, message):
    with pytest.raises(DataError, match=message):
        encode_pair(CHAT, Pair(id="x", prompt=PROMPT, chosen=chosen, rejected=rejected))


def test_a_batch_sorts_its_responses_into_views_and_sides():
    model = tiny.model()
    layout = choose_layout(model)
    given = score_reference(model, examples(3, views=ALL_VIEWS), views=ALL_VIEWS, layout=layout, pad_id=3)
    batch = make_batch(given, [1.0, 1.0, 0.0], views=ALL_VIEWS, layout=layout, pad_id=3)
    numbers = batch.by_view(SequenceLogprobs(torch.arange(18.0), batch.rows.lengths))
    assert numbers["plain"].chosen.sum.tolist() == [0, 6, 12]
    assert numbers["good"].rejected.sum.tolist() == [3, 9, 15]
    assert numbers["bad"].chosen.sum.tolist() == [4, 10, 16]
    for view in ALL_VIEWS:
        assert numbers[view].chosen.tokens.tolist() == [len(each.views[view].chosen) for each in given]
        reference = batch.reference_by_view()[view]
        assert reference.rejected.sum.tolist() == pytest.approx([each.reference[view][1] for each in given])
    assert batch.weight.tolist() == [1, 1, 0]


def test_references_are_joined_by_id_and_a_missing_one_is_an_error():
    given = examples(3)
    table = {each.id: {"plain": (-float(number), -9.0)} for number, each in enumerate(given)}
    joined = join_reference(given[::-1], table, views=("plain",))
    assert [each.reference["plain"][0] for each in joined] == [-2, -1, 0]
    del table["pair-1"]
    with pytest.raises(DataError, match="1 of 3 examples have no reference log-probabilities: 'pair-1'"):
        join_reference(given, table, views=("plain",))


def test_scoring_does_not_depend_on_batches_and_draws_no_random_numbers():
    model = tiny.model("qwen3").train()
    options = {"views": ("plain",), "layout": choose_layout(model), "pad_id": 3}
    done = []
    state = torch.get_rng_state()
    together = score_reference(model, examples(7), **options, advance=done.append)
    alone = score_reference(model, examples(7), **options, batch_tokens=1)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert sum(done) == 7
    for left, right in zip(together, alone, strict=True):
        assert left.id == right.id
        assert left.reference["plain"] == pytest.approx(right.reference["plain"], abs=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no pair to train on"),
        ([*examples(2), *examples(1)], "the id 'pair-0' stands twice"),
        (examples(1, views=("plain", "bad")), "pair 'pair-0' has no good view"),
    ],
)
def test_examples_are_checked_before_training(given, message):
    with pytest.raises(DataError, match=message):
        check_examples(given, ALL_VIEWS if len(given) == 1 else ("plain",))
