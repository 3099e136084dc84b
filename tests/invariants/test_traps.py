"""Known traps of preference training that the tests beside the code do not cover; docs/traps.md lists them all."""

import math
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainingArguments

from tests import tiny
from tests.training.pairs import ALL_VIEWS, END, examples, loaded
from tests.training.test_equality import DPO, LORA, SSO, assert_equal, train
from windvane.data import OfflinePair
from windvane.engines.chat import ChatFormat, with_system
from windvane.engines.local import LocalEngine
from windvane.engines.logprobs import choose_layout, sequence_logprobs
from windvane.engines.models import LoadedModel, load_model
from windvane.engines.protocols import Advance, no_progress
from windvane.engines.rows import ResponseGroup, plain_rows, shared_prefix_rows
from windvane.engines.settings import EngineSettings
from windvane.engines.workbench import Workbench
from windvane.errors import TrainingDiverged
from windvane.losses import PairLogprobs, SequenceLogprobs, on_policy_weight
from windvane.pairs import PairSettings, make_pairs
from windvane.recipes.contrast import score_pairs
from windvane.sampling import SamplingSettings, sample_responses
from windvane.selection import implicit_reward_margin
from windvane.training import (
    EncodedPair,
    PreferenceTrainer,
    TrainerOptions,
    TrainingExample,
    encode_pair,
    encode_steering_pair,
    score_reference,
)
from windvane.training.examples import make_batch
from windvane.types import Logprob, Message, Principle, Prompt, Query, Sampling, ScoreRequest

PAD = 3
LAYOUTS = pytest.mark.parametrize("layout", [shared_prefix_rows, plain_rows], ids=["shared", "plain"])
MODES = pytest.mark.parametrize("mode", ["scored", "frozen", "adapter_off"])


class Fixed(torch.nn.Module):
    """An output head that gives the same logits everywhere."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*hidden.shape[:-1], -1)


def with_fixed_logits(logits: torch.Tensor):
    model = tiny.model()
    model.lm_head = Fixed(logits)
    return model


# -- log-probabilities and losses --------------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize(
    ("chosen", "rejected"), [((50, 6, END), (70, 6, END)), ((50, 6, END), (50, 6, 70))], ids=["first", "end"]
)
def test_the_margin_is_that_of_the_one_token_in_which_two_responses_differ(layout, chosen, rejected):
    logits = torch.linspace(-3, 3, tiny.VOCAB)
    rows = layout([ResponseGroup((7, 8), (chosen, rejected))], pad_id=PAD)
    scores = sequence_logprobs(with_fixed_logits(logits), rows)
    nothing = SequenceLogprobs(torch.zeros(1), torch.ones(1))
    sides = PairLogprobs(*(SequenceLogprobs(scores.sum[i : i + 1], scores.tokens[i : i + 1]) for i in range(2)))
    table = logits.log_softmax(-1)
    mine, other = next((a, b) for a, b in zip(chosen, rejected, strict=True) if a != b)
    margin = implicit_reward_margin(sides, PairLogprobs(nothing, nothing))
    assert margin.item() == pytest.approx((table[mine] - table[other]).item(), abs=1e-6)


@LAYOUTS
def test_a_token_of_probability_one_counts_in_the_length(layout):
    """Its log-probability is 0, which a count of non-zero values would take for padding."""
    certain = torch.full((tiny.VOCAB,), -1e9)
    certain[9] = 0.0
    scores = sequence_logprobs(with_fixed_logits(certain), layout([ResponseGroup((7,), ((9,) * 5, (9,)))], pad_id=9))
    assert scores.sum.tolist() == [0, 0]
    assert scores.tokens.tolist() == [5, 1]


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_change_nothing_in_a_16_bit_model(chunk):
    """The log-softmax is float32 whatever the model is, so values agree to float32; gradients to bfloat16's 8 bits."""
    found = []
    groups = [ResponseGroup((7, 8, 9), ((21, 22, 23, END), (31, END))), ResponseGroup((5,), ((41, 42, 43),))]
    for size in (chunk, 10_000):
        model = tiny.model().to(torch.bfloat16)
        scores = sequence_logprobs(model, shared_prefix_rows(groups, pad_id=PAD), chunk=size).sum
        scores.sum().backward()
        found.append((scores, {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=2**-7, atol=2**-7, msg=name)


@pytest.mark.parametrize("pairs", [1, 2, 6])
def test_the_on_policy_weight_is_one_number_a_pair_and_knows_no_length(pairs):
    means = -torch.linspace(0.5, 3, pairs)
    short, long = (
        PairLogprobs(*(SequenceLogprobs(means * length, torch.full((pairs,), length)) for _ in range(2)))
        for length in (6, 60)
    )
    weight = on_policy_weight(short, alpha=0.66)
    assert weight.shape == (pairs,)
    torch.testing.assert_close(weight, on_policy_weight(long, alpha=0.66))
    torch.testing.assert_close(weight, torch.sigmoid(-means))
    of_sums = torch.sigmoid(-short.chosen.sum)
    assert (weight - of_sums).abs().min() > 0.01, "a weight made of sums would be another number"


# -- from text to tokens -----------------------------------------------------------------------------------------------


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """As tests.tiny, but two newlines in a row become one token, and a newline with a space another."""
    alphabet = [*tiny.SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ", "ĊĠ"]
    core = Tokenizer(
        models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[("Ċ", "Ċ"), ("Ċ", "Ġ")])
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<pad>", additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = tiny.CHATML
    return fast


@pytest.mark.parametrize("text", ["\nA new line first.", " A space first."])
def test_no_token_reaches_over_the_boundary_of_prompt_and_response(text):
    tokenizer = merging_tokenizer()
    chat = ChatFormat(tokenizer)
    turns = (Message(role="user", content="Hi"),)
    example = encode_pair(chat, OfflinePair(id="a", prompt=turns, chosen=text, rejected="No."))
    prompt, chosen, rejected = example.views["plain"]
    whole = tokenizer.apply_chat_template([t.model_dump() for t in turns], tokenize=False, add_generation_prompt=True)
    in_one_go = tokenizer(whole + text, add_special_tokens=False)["input_ids"]
    assert in_one_go[: len(prompt)] != list(prompt), "the tokenizer does merge over the boundary"
    assert tokenizer(whole, add_special_tokens=False)["input_ids"] == list(prompt)
    assert tokenizer.decode([*prompt, *chosen[:-1]]) == whole + text
    assert chosen[-1] == rejected[-1] == chat.end_id


class Recorder:
    """A scorer that keeps what it is asked."""

    def __init__(self) -> None:
        self.requests: list[ScoreRequest] = []

    def score(self, requests: Sequence[ScoreRequest], *, advance: Advance = no_progress) -> list[tuple[Logprob, ...]]:
        self.requests.extend(requests)
        return [tuple(Logprob(sum=-1.0, tokens=1) for _ in request.responses) for request in requests]


@pytest.fixture(scope="module")
def sampled():
    """A tiny model, and pairs of its own greedy answers."""
    policy = loaded()
    queries = [Query(id=f"q{i}", messages=(Message(role="user", content=f"{i}?" * (i + 1)),)) for i in range(4)]
    principles = [
        Principle(query_id=q.id, features=("x",), good="Be warm.", bad="Be very cold.", origin="user") for q in queries
    ]
    greedy = SamplingSettings(max_new_tokens=12, temperature=0)
    engine = LocalEngine(policy, EngineSettings())
    responses = sample_responses(queries, principles, engine, greedy, seed=0)
    settings = PairSettings(builtin_preambles=False, max_repetition=1)
    made = make_pairs(queries, principles, responses, settings, codec=policy.chat)
    assert made.pairs, made.dropped
    return policy, made.pairs, {each.query_id: each for each in responses}


def test_what_is_trained_on_is_what_was_sampled_token_for_token(sampled):
    """Each token of a greedy answer is the likeliest one at its place in the training rows: the same prompt, too."""
    policy, pairs, responses = sampled
    for scored in zip(pairs, score_pairs(pairs, Recorder()), strict=True):
        example = encode_steering_pair(policy.chat, scored[1])
        view = example.views["good"]
        assert view.chosen == responses[example.id].good.token_ids
        assert view.rejected == responses[example.id].bad.token_ids
        rows = shared_prefix_rows([ResponseGroup(view.prompt, (view.chosen,))], pad_id=PAD)
        with torch.no_grad():
            logits = policy.model(rows.input_ids, logits_to_keep=rows.predict).logits
        assert logits[rows.target_row].argmax(-1).tolist() == list(view.chosen)


def test_what_is_scored_is_what_is_trained_on(sampled):
    policy, pairs, _ = sampled
    recorder = Recorder()
    scored = score_pairs(pairs, recorder)
    chat = policy.chat
    for number, each in enumerate(scored):
        views = encode_steering_pair(chat, each).views
        for view, request in zip(ALL_VIEWS, recorder.requests[3 * number : 3 * number + 3], strict=True):
            assert views[view].prompt == tuple(chat.prompt_ids(request.messages))
            chosen, rejected, *original = (response.token_ids for response in request.responses)
            expected = (original[0], chosen) if view == "bad" else (chosen, rejected)
            assert (views[view].chosen, views[view].rejected) == expected


def test_sampler_scorer_and_trainer_see_the_same_system_message(sampled):
    _, pairs, _ = sampled
    recorder = Recorder()
    score_pairs(pairs[:1], recorder)
    pair = pairs[0]
    for view, request in zip(("good", "bad"), recorder.requests[1:], strict=True):
        assert request.messages == with_system(pair.prompt, getattr(pair.principle, view))


def test_padding_with_the_end_token_trains_the_same(tmp_path):
    """Masks, not ids, tell padding from text: ends of turns are seen and learned although padding looks like them."""
    tokenizer = tiny.tokenizer(pad_token="<|im_end|>")
    assert tokenizer.pad_token_id == END
    turns = [EncodedPair((*p.prompt, END, 10), p.chosen, p.rejected) for p in (e.views["plain"] for e in examples(12))]
    given = [TrainingExample(f"pair-{number}", {"plain": pair}) for number, pair in enumerate(turns)]
    for layout in ("shared", "plain"):
        same = LoadedModel(tiny.model(), tokenizer, ChatFormat(tokenizer), "tiny")
        assert_equal(
            train(tmp_path / f"{layout}-end", given=given, model=same, layout=layout),
            train(tmp_path / f"{layout}-pad", given=given, layout=layout),
        )


# -- reference ---------------------------------------------------------------------------------------------------------


def test_a_reference_that_is_given_leads_the_same_way_as_one_that_is_scored(tmp_path):
    """Scoring draws no random numbers, so the adapter's dropout is the same with it and without it, bit for bit."""
    model = loaded().model
    given = examples(12)
    known = score_reference(model, given, views=("plain",), layout=choose_layout(model), pad_id=PAD)
    options = {"lora": LORA.model_copy(update={"dropout": 0.5}), "learning_rate": 1e-2, "epochs": 2}
    assert_equal(
        train(tmp_path / "given", given=known, **options),
        train(tmp_path / "scored", given=given, **options),
    )


@MODES
def test_a_second_adapter_starts_at_the_policy_that_the_first_one_made(tmp_path, mode):
    train(tmp_path / "first", lora=LORA, learning_rate=1e-2)
    again = load_model(str(tmp_path / "first" / "policy"), EngineSettings(dtype="float32"))
    result, _ = train(tmp_path / "second", model=again, lora=LORA, reference=mode)
    assert result.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert result.history[0]["chosen_change"] == pytest.approx(0, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft reads it by its old name
def test_an_adapter_that_is_trained_on_is_no_adapter_to_switch_off(tmp_path):
    """Below it lies another model than the one that training starts from; scored and frozen references hold."""
    from windvane.training.adapters import add_adapter

    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", learning_rate=1e-3,
        per_device_train_batch_size=8, logging_steps=1, num_train_epochs=2,
    )  # fmt: skip
    for mode in ("scored", "frozen", "adapter_off"):
        model = add_adapter(tiny.model(), LORA, seed=0)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_B" in name:
                    value.normal_(std=0.3)
        options = TrainerOptions(reference=mode)
        trainer = PreferenceTrainer(model, arguments, examples(8), objective=DPO, options=options)
        if mode == "adapter_off":
            with pytest.raises(TrainingDiverged, match="must equal its reference"):
                trainer.train()
        else:
            trainer.train()
            losses = [entry["loss"] for entry in trainer.state.log_history if "margin" in entry]
            assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
            assert losses[1] < losses[0]


@pytest.mark.parametrize("mode", ["scored", "frozen"])
def test_the_reference_is_the_model_in_memory_not_the_one_on_disk(tmp_path, tiny_model_folder, mode):
    edited = load_model(str(tiny_model_folder), EngineSettings(dtype="float32"))
    with torch.no_grad():
        edited.model.lm_head.weight.mul_(0.3)
    result, _ = train(tmp_path, model=edited, reference=mode)
    assert result.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert result.history[-1]["chosen_change"] != 0


@pytest.mark.parametrize(("mode", "lora"), [("scored", None), ("frozen", None), ("adapter_off", LORA)])
def test_after_a_resume_the_reference_is_still_the_model_that_training_began_with(tmp_path, mode, lora):
    options = {"given": examples(12), "pairs_per_step": 4, "micro_batch": 4, "save_every": 1, "lora": lora,
               "reference": mode, "learning_rate": 1e-2}  # fmt: skip

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", callbacks=[Kill()], **options)
    resumed = train(tmp_path / "killed", **options)
    assert abs(resumed[0].history[-1]["chosen_change"]) > 1e-3, "from a reference taken anew it would be 0"
    assert_equal(resumed, train(tmp_path / "whole", **options))


# -- rounds ------------------------------------------------------------------------------------------------------------


def test_after_training_the_sampler_uses_the_new_weights_and_the_base_is_as_it_was(tmp_path, tiny_model_folder):
    said = []
    bench = Workbench(EngineSettings(dtype="float32"), say=said.append, count=lambda *_: None)
    prompts = [Prompt((Message(role="user", content="Hello there"),), seed=0)]
    greedy = Sampling(max_new_tokens=8, temperature=0)
    base = str(tiny_model_folder)
    before = bench.engine(base).generate(prompts, greedy)
    train(tmp_path, model=bench.take(base), learning_rate=3e-2, guards={"max_fall": None})
    policy = str(tmp_path / "policy")
    assert bench.engine(base).generate(prompts, greedy) == before, "training changed weights that the bench still holds"
    after = bench.engine(policy).generate(prompts, greedy)
    assert after != before
    theirs = tiny.transformers.AutoModelForCausalLM.from_pretrained(policy)
    ids = torch.tensor([bench.engine(policy).chat.prompt_ids(prompts[0].messages)])
    out = theirs.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))
    assert out[0, ids.shape[1] :].tolist() == list(after[0].token_ids)


def test_the_weights_of_a_pair_and_its_views_stay_together_in_any_batch():
    """The loss of a batch of pairs in three views is that of each of them alone."""
    model = tiny.model()
    layout = choose_layout(model)
    given = score_reference(model, examples(5, views=ALL_VIEWS), views=ALL_VIEWS, layout=layout, pad_id=PAD)
    model = tiny.model(seed=1)

    def losses_of(part: list[TrainingExample]) -> list[float]:
        batch = make_batch(part, [1.0] * len(part), views=ALL_VIEWS, layout=layout, pad_id=PAD)
        with torch.no_grad():
            policy = batch.by_view(sequence_logprobs(model, batch.rows))
        return SSO(policy, batch.reference_by_view()).tolist()

    alone = [losses_of([example])[0] for example in given]
    assert losses_of(given) == pytest.approx(alone, abs=1e-4)
    assert losses_of(given[::-1]) == pytest.approx(alone[::-1], abs=1e-4)
    assert all(isinstance(example.views["good"], EncodedPair) for example in given)
