"""The kept scores stand beside the rows that they are of."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from offline.evaluation.evaluate import PROBE, SERVED
from offline.evaluation.scores import gather_scores
from probes.calibration import Calibration
from tests.unit.offline.tables import make_table


def test_scores_are_of_their_rows_and_no_training_row_is_among_them():
    table = make_table(200)
    number = np.arange(200.0)
    calibration = Calibration("platt", slope=0.01)
    contest = SimpleNamespace(
        scores={SERVED: number, PROBE: -number},
        random=[number + 1, number + 2],
        risk=SimpleNamespace(model=SimpleNamespace(calibration=calibration)),
    )
    found = gather_scores(table, contest, ("test", "unfiltered-test"), "sha", np.ones(3))
    assert set(found.splits.tolist()) == {"test", "unfiltered-test"}
    at = [table.rows.index(replace(row)) for row in table.rows if row.split in ("test", "unfiltered-test")]
    assert found.of(PROBE).tolist() == [-float(i) for i in at]
    assert found.random[1].tolist() == [i + 2.0 for i in at]
    assert found.question_ids.tolist() == [table.rows[i].question_id for i in at]
    assert found.labels.tolist() == table.labels[at].tolist()
    assert found.answer_tokens.tolist() == table.signals["n_tokens"][at].tolist()
    assert found.response_tokens.tolist() == table.signals["response_n_tokens"][at].tolist()
    assert np.allclose(found.risks, calibration.risks(number[at]))
    assert found.take(found.splits == "test").of(SERVED).tolist() == [
        float(i) for i in at if table.rows[i].split == "test"
    ]
