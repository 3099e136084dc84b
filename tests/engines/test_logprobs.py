"""Log-probabilities: by hand, shared against plain, chunked against whole, and which layout a model gets."""

import math

import pytest
import torch

from tests import tiny
from windvane.engines.logprobs import _TokenLogprobs, choose_layout, evaluating, sequence_logprobs
from windvane.engines.rows import ResponseGroup, plain_rows, shared_prefix_rows

PAD = 3
SHARED = ["llama", "qwen3", "gemma2", "granite", "gpt_neox"]
GROUPS = [
    ResponseGroup([7, 8, 9, 10, 11], ([21, 22, 23], [24], [25, 26, 27, 28, 2])),
    ResponseGroup([31, 32], ([41, 42, 2], [51, 52, 53, 54, 55, 56])),
]


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def scores_and_gradients(model, rows, **options):
    model.zero_grad()
    logprobs = sequence_logprobs(model, rows, **options)
    weights = torch.arange(1.0, rows.responses + 1)  # a different weight for each response, so none can hide
    (logprobs.sum * weights).sum().backward()
    return logprobs, gradients(model)


def assert_same_gradients(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        (family, attention)
        for family in SHARED
        for attention in ("sdpa", "eager")
        if (family, attention) != ("gemma2", "sdpa")
    ],
)
def test_shared_rows_give_the_values_and_every_gradient_of_plain_rows(family, attention):
    model = tiny.model(family)
    model.set_attn_implementation(attention)
    shared, shared_gradients = scores_and_gradients(model, shared_prefix_rows(GROUPS, pad_id=PAD))
    plain, plain_gradients = scores_and_gradients(model, plain_rows(GROUPS, pad_id=PAD))
    torch.testing.assert_close(shared.sum, plain.sum, rtol=1e-4, atol=1e-4)
    assert shared.tokens.tolist() == plain.tokens.tolist() == [3, 1, 5, 3, 6]
    assert_same_gradients(shared_gradients, plain_gradients)


@pytest.mark.parametrize("family", [*SHARED, "mamba2"])
def test_plain_rows_equal_one_sequence_at_a_time_without_any_mask(family):
    """The yardstick knows nothing of rows: a forward pass for each sequence, log-softmax over all of it."""
    model = tiny.model(family)
    scores = sequence_logprobs(model, plain_rows(GROUPS, pad_id=PAD)).sum
    expected = []
    for group in GROUPS:
        for response in group.responses:
            ids = torch.tensor([[*group.prompt, *response]])
            logprobs = model(ids).logits[0].float().log_softmax(-1)
            start = len(group.prompt)
            expected.append(sum(logprobs[start + index - 1, token] for index, token in enumerate(response)))
    torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", SHARED)
def test_a_rejected_token_never_reaches_the_chosen_response(family):
    model = tiny.model(family)
    prompt, chosen, rejected = [7, 8, 9], [21, 22, 23, 2], [31, 32, 33, 2]
    before = sequence_logprobs(model, shared_prefix_rows([ResponseGroup(prompt, (chosen, rejected))], pad_id=PAD)).sum
    for position in range(len(rejected)):
        changed = [*rejected]
        changed[position] += 100
        rows = shared_prefix_rows([ResponseGroup(prompt, (chosen, changed))], pad_id=PAD)
        after = sequence_logprobs(model, rows).sum
        assert after[0] == before[0]
        assert after[1] != before[1]


def test_the_leak_test_can_fail():
    """With a plainly causal mask the chosen response, laid out second, does see the rejected one."""
    model = tiny.model()
    rows = [shared_prefix_rows([ResponseGroup([7, 8], ([token, 2], [21, 22, 2]))], pad_id=PAD) for token in (31, 99)]
    for batch in rows:
        batch.attention_mask.copy_(torch.ones_like(batch.attention_mask).tril())
    first, second = (sequence_logprobs(model, batch).sum[1] for batch in rows)
    assert abs(first - second) > 1e-2


@pytest.mark.parametrize("chunk", [1, 7, 12, 13])
def test_chunks_change_neither_values_nor_gradients(chunk):
    model = tiny.model("gemma2")
    rows = shared_prefix_rows(GROUPS, pad_id=PAD)
    assert int(rows.predict.sum()) == 15
    whole, whole_gradients = scores_and_gradients(model, rows, chunk=10_000)
    parts, part_gradients = scores_and_gradients(model, rows, chunk=chunk)
    torch.testing.assert_close(parts.sum, whole.sum, rtol=1e-5, atol=1e-5)
    assert_same_gradients(part_gradients, whole_gradients)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("chunk", [2, 100])
def test_the_gradient_that_is_written_out_is_that_of_autograd(dtype, tolerance, chunk):
    """Rows that predict a token twice, several tokens, none, and one so likely that its gradient nearly cancels."""
    torch.manual_seed(0)
    given = (6 * torch.randn(5, 11)).to(dtype)
    given[3, 0] += 20
    row, target = torch.tensor([0, 0, 0, 1, 3, 4]), torch.tensor([2, 2, 7, 1, 0, 0])
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0, -1.0])
    ours, theirs = given.clone().requires_grad_(), given.float().requires_grad_()
    mine, expected = _TokenLogprobs.apply(ours, row, target, chunk), theirs.log_softmax(-1)[row, target]
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)  # float32, also from 16-bit logits
    for logprobs in (mine, expected):
        (logprobs * weights).sum().backward()
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad.float(), theirs.grad, rtol=tolerance, atol=1e-6)


class Fixed(torch.nn.Module):
    """Gives the same three logits everywhere."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, hidden):
        return self.logits.expand(*hidden.shape[:-1], -1)


def test_by_hand():
    """Logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8, whatever comes before."""
    model = tiny.model(vocab_size=3, pad_token_id=0, bos_token_id=0, eos_token_id=2)
    model.lm_head = Fixed([math.log(1), math.log(2), math.log(5)])
    groups = [ResponseGroup([0, 1], ([0], [1, 2], [2, 2, 0]))]
    expected = [math.log(1 / 8), math.log(2 / 8 * 5 / 8), math.log(5 / 8 * 5 / 8 * 1 / 8)]
    for rows in (shared_prefix_rows(groups, pad_id=0), plain_rows(groups, pad_id=0)):
        scores = sequence_logprobs(model, rows)
        assert scores.sum.tolist() == pytest.approx(expected, abs=1e-6)
        assert scores.mean.tolist() == pytest.approx([expected[0], expected[1] / 2, expected[2] / 3], abs=1e-6)


def test_first_token_and_end_token_count():
    model = tiny.model()
    rows = shared_prefix_rows([ResponseGroup([7, 8], ([21, 22, 2], [21, 22]))], pad_id=PAD)
    full, without_end = sequence_logprobs(model, rows).sum
    logits = model(torch.tensor([[7, 8, 21, 22]])).logits[0].log_softmax(-1)
    assert (full - without_end).item() == pytest.approx(logits[3, 2].item(), abs=1e-4)
    rows = shared_prefix_rows([ResponseGroup([7, 8], ([21],))], pad_id=PAD)
    assert sequence_logprobs(model, rows).sum.item() == pytest.approx(logits[1, 21].item(), abs=1e-4)


def test_a_batch_scores_what_its_members_score_alone_and_padding_may_be_the_end_token():
    model = tiny.model("qwen3")
    together = sequence_logprobs(model, shared_prefix_rows(GROUPS, pad_id=2)).sum
    alone = torch.cat([sequence_logprobs(model, shared_prefix_rows([group], pad_id=PAD)).sum for group in GROUPS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_sums_are_float32_for_a_16_bit_model():
    model = tiny.model().to(torch.bfloat16)
    assert sequence_logprobs(model, shared_prefix_rows(GROUPS, pad_id=PAD)).sum.dtype == torch.float32


@pytest.mark.parametrize("family", SHARED)
def test_models_with_full_attention_share_prompts(family):
    layout = choose_layout(tiny.model(family))
    assert layout.name == "shared", layout.reason


def test_a_state_space_model_gets_plain_rows_and_a_reason():
    layout = choose_layout(tiny.model("mamba2"))
    assert layout.name == "plain"
    assert "Mamba2" in layout.reason


def test_a_sliding_window_shorter_than_the_data_gets_plain_rows():
    model = tiny.model("gemma2", sliding_window=32)
    assert choose_layout(model, longest=32).name == "shared"
    layout = choose_layout(model, longest=33)
    assert layout.name == "plain"
    assert "32" in layout.reason
    assert "33" in layout.reason
    assert choose_layout(model).name == "plain"  # not knowing the data, it reckons with all the model's positions


def test_attention_that_takes_no_mask_gets_plain_rows():
    model = tiny.model()
    model.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in choose_layout(model).reason


def test_the_probe_catches_a_model_that_ignores_the_mask():
    model = tiny.model()
    forward = model.model.forward

    def deaf(*args, attention_mask=None, **options):
        return forward(*args, attention_mask=attention_mask if attention_mask.ndim == 2 else None, **options)

    model.model.forward = deaf
    layout = choose_layout(model)
    assert layout.name == "plain"
    assert "probe" in layout.reason


def test_plain_rows_on_request():
    assert choose_layout(tiny.model(), wanted="plain").name == "plain"


def test_evaluating_restores_each_module():
    model = tiny.model().train()
    model.model.layers[0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training
