"""The golden trace of an artifact: a few test responses and the scores of the probe's heads, one by one in float32."""

import numpy as np
import torch

from offline.features.table import Table
from offline.run import Run
from probes.artifact import GoldenTrace
from probes.positions import align_rows
from probes.probe import Probe
from probes.residual import ResidualTap
from probes.tap import HeadTap

SEQUENCES = 4


@torch.inference_mode()
def make_golden(run: Run, table: Table, probe: Probe) -> GoldenTrace:
    """Run the model over them."""
    model = run.model("float32")
    tap = HeadTap(model, probe.neurons)
    stream = ResidualTap(model, probe.residual.layer) if probe.residual else None
    rows = np.flatnonzero(table.in_split("test"))
    picked = [table.passages[table.place[row]] for row in rows[np.linspace(0, len(rows) - 1, SEQUENCES).astype(int)]]
    scores = []
    for passage in picked:
        n_rows = len(passage.response_ids) + 1
        ids = torch.tensor([passage.prompt_ids + passage.response_ids], device=tap.device)
        with tap.attached():
            tap.begin(1, last=n_rows)
            model(input_ids=ids, use_cache=False)
            heads = [tap.read().cett[0].cpu().numpy() @ probe.weights]
        if stream is not None and probe.residual is not None:
            with stream.attached():
                stream.begin(last=n_rows)
                model(input_ids=ids, use_cache=False)
                heads.append(stream.read()[0].cpu().numpy() @ probe.residual.weights)
        found = np.stack(heads, axis=1).tolist()
        scores.append(np.asarray(align_rows(found, len(passage.response_ids), probe.position), dtype=np.float32))
    return GoldenTrace(
        tuple(passage.prompt_ids for passage in picked),
        tuple(passage.response_ids for passage in picked),
        tuple(scores),
    )
