"""Layout of shared and plain rows: what stands where, and who sees whom."""

import pytest
import torch

from windvane.engines.rows import ResponseGroup, plain_rows, shared_prefix_rows

PAD = 3
GROUPS = [
    ResponseGroup([10, 11, 12], ([20, 21, 22], [30], [40, 41])),
    ResponseGroup([50, 51], ([60, 61],)),
]


def test_shared_rows_hold_the_prompt_once_and_drop_last_tokens():
    rows = shared_prefix_rows(GROUPS, pad_id=PAD)
    assert rows.input_ids.tolist() == [[10, 11, 12, 20, 21, 40], [50, 51, 60, PAD, PAD, PAD]]
    assert rows.lengths.tolist() == [3, 1, 2, 2]
    assert rows.targets.tolist() == [20, 21, 22, 30, 40, 41, 60, 61]
    assert rows.segment.tolist() == [0, 0, 0, 1, 2, 2, 3, 3]


def test_positions_of_each_response_start_at_the_prompt_length():
    rows = shared_prefix_rows(GROUPS, pad_id=PAD)
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 3], [0, 1, 2, 0, 0, 0]]


@pytest.mark.parametrize("layout", [shared_prefix_rows, plain_rows])
def test_every_target_is_predicted_by_the_token_before_it(layout):
    rows = layout(GROUPS, pad_id=PAD)
    before = [12, 20, 21, 12, 12, 40, 51, 60]
    assert rows.input_ids[rows.predict][rows.target_row].tolist() == before
    assert rows.target_row.unique().tolist() == list(range(int(rows.predict.sum())))  # no position is kept in vain


def test_a_response_sees_the_prompt_and_itself_only():
    mask = shared_prefix_rows(GROUPS, pad_id=PAD).attention_mask
    assert mask.shape == (2, 1, 6, 6)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],  # the third response: nothing of the first
    ]
    assert mask[1, 0, 3:].int().tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]  # padding


def test_plain_rows_repeat_the_prompt_and_pad_on_the_right():
    rows = plain_rows(GROUPS, pad_id=PAD)
    assert rows.input_ids.tolist() == [
        [10, 11, 12, 20, 21],
        [10, 11, 12, PAD, PAD],
        [10, 11, 12, 40, PAD],
        [50, 51, 60, PAD, PAD],
    ]
    assert rows.attention_mask.sum(1).tolist() == [5, 3, 4, 3]
    assert rows.segment.tolist() == [0, 0, 0, 1, 2, 2, 3, 3]


def test_rows_move_together():
    rows = plain_rows(GROUPS, pad_id=PAD).to("meta")
    assert rows.input_ids.device == rows.lengths.device == torch.device("meta")


@pytest.mark.parametrize("layout", [shared_prefix_rows, plain_rows])
@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "no group"),
        ([ResponseGroup([], ([1],))], "group 0 has no prompt"),
        ([ResponseGroup([1], ())], "group 0 has no prompt tokens or no response"),
        ([ResponseGroup([1], ([2],)), ResponseGroup([1], ([2], []))], "response 1 of group 1 is empty"),
    ],
)
def test_what_cannot_be_laid_out_is_named(layout, groups, message):
    with pytest.raises(ValueError, match=message):
        layout(groups, pad_id=PAD)
