"""The golden trace tells the right engine from a wrong row, a shifted layer and a silent hook."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probes.artifact import GOLDEN_TOLERANCE, GoldenTrace, golden_error
from tests.unit.probes.artifacts import PROMPTS, build_model, score_golden

torch.set_num_threads(1)


def test_the_right_engine_departs_by_rounding_only(artifact, model):
    assert golden_error(artifact, score_golden(model, artifact.probe)) == 0.0
    half = score_golden(build_model(dtype=torch.bfloat16), artifact.probe)
    assert 0 < golden_error(artifact, half) < GOLDEN_TOLERANCE["bfloat16"]


def test_rows_that_are_off_by_one_are_far_out_of_tolerance(artifact, model):
    wrong = score_golden(model, artifact.probe, rule="predicting")
    assert golden_error(artifact, wrong) > max(GOLDEN_TOLERANCE.values())


def test_a_shifted_layer_is_far_out_of_tolerance(artifact):
    shifted = build_model()
    shifted.model.layers = torch.nn.ModuleList([*shifted.model.layers[1:], shifted.model.layers[0]])
    assert golden_error(artifact, score_golden(shifted, artifact.probe)) > max(GOLDEN_TOLERANCE.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_an_infinite_error(artifact, bad):
    scores = [row.copy() for row in artifact.golden.scores]
    scores[1][2] = bad
    assert golden_error(artifact, scores) == float("inf")


def test_missing_scores_are_an_infinite_error(artifact):
    scores = list(artifact.golden.scores)
    assert golden_error(artifact, []) == float("inf")
    assert golden_error(artifact, scores[:1]) == float("inf")
    assert golden_error(artifact, [scores[0], scores[1][:-1]]) == float("inf")
    assert golden_error(artifact, [*scores, scores[0]]) == float("inf")


def test_silent_hooks_that_score_zero_everywhere_are_found(artifact):
    assert golden_error(artifact, [np.zeros_like(row) for row in artifact.golden.scores]) > 0.5


def test_a_trace_without_scores_proves_nothing(artifact):
    empty = replace(artifact, golden=GoldenTrace((), (), ()))
    assert golden_error(empty, []) == float("inf")


def test_a_trace_of_one_token_still_has_a_scale(artifact):
    one = replace(artifact, golden=GoldenTrace(PROMPTS[:1], ((60,),), (np.float32([0.5]),)))
    assert golden_error(one, [np.float32([0.5])]) == 0.0
    assert golden_error(one, [np.float32([0.6])]) > 1  # and never nan, which no tolerance refuses
