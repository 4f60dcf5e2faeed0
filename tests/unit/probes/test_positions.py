import numpy as np
import pytest
import torch

from probes.positions import align_rows, first_row, rows_needed, sequence_slice

PROMPT, RESPONSE = ["p0", "p1", "p2"], ["a", "b", "c", "d"]


def fed_rows():
    """The token that is the input of each row r_0, r_1, ..."""
    return [PROMPT[-1], *RESPONSE]


def test_own_row_is_the_one_whose_input_is_the_token():
    assert list(align_rows(fed_rows(), 4, "own")) == RESPONSE


def test_predicting_row_is_the_one_before():
    assert list(align_rows(fed_rows(), 4, "predicting")) == [PROMPT[-1], *RESPONSE[:-1]]


@pytest.mark.parametrize("rule", ["own", "predicting"])
def test_rows_of_a_whole_sequence_are_the_rows_of_a_stream(rule):
    sequence = PROMPT + RESPONSE
    assert sequence[sequence_slice(len(PROMPT), len(RESPONSE), rule)] == list(align_rows(fed_rows(), 4, rule))


@pytest.mark.parametrize(("rule", "expected"), [("own", 3), ("predicting", 4)])
def test_an_unfed_last_row_leaves_the_last_own_token_without_score(rule, expected):
    assert len(align_rows(fed_rows()[:-1], 4, rule)) == expected


@pytest.mark.parametrize("rule", ["own", "predicting"])
def test_rows_needed_are_just_enough(rule):
    for n_tokens in range(5):
        rows = list(range(rows_needed(rule, n_tokens)))
        assert len(align_rows(rows, n_tokens, rule)) == n_tokens
        assert len(align_rows(rows[:-1], n_tokens, rule)) == max(0, n_tokens - 1)
    assert rows_needed(rule, 0) == 0
    assert first_row(rule) == rows_needed(rule, 1) - 1


def test_lists_arrays_and_tensors_are_sliced_alike():
    rows = list(range(5))
    assert (
        align_rows(np.asarray(rows), 2, "own").tolist() == align_rows(torch.tensor(rows), 2, "own").tolist() == [1, 2]
    )
