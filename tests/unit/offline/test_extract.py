"""Features on disk must be those that were read, whatever the batch, the kill or the half precision."""

import os

import numpy as np
import pytest
import torch

from offline.extraction import extract as module
from offline.extraction.extract import extract
from offline.extraction.passage_reader import PassageReader
from offline.extraction.passages import GROUPS, Passage
from offline.stages import StageMismatchError
from probes.spans import AnswerSpan
from tests.reference.tiny_models import build_tiny, shared_tiny
from tests.unit.offline.passages import make_passages, open_store, read

torch.set_num_threads(1)


def test_the_model_is_left_as_it_was(tmp_path):
    model, passages = build_tiny("Llama"), make_passages(4, template=(7, 8))
    ids = torch.tensor([passages[0].token_ids])
    with torch.inference_mode():
        before = model(input_ids=ids).logits
    with pytest.raises(ZeroDivisionError), PassageReader(model, passages).attached():
        raise ZeroDivisionError
    extract(model, passages, open_store(tmp_path, passages, model))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, before)


def test_half_precision_on_disk_is_the_float32_value_to_a_thousandth(tmp_path):
    model, passages = shared_tiny("Llama"), make_passages(9, template=(7, 8, 9))
    store = open_store(tmp_path, passages, model)
    extract(model, passages, store, batch_tokens=40)
    features, signals = read(model, passages)
    for group, name in enumerate(GROUPS):
        # Below 6e-5 float16 is subnormal: steps of 6e-8.
        np.testing.assert_allclose(store.groups[name], features[:, group].numpy(), rtol=1e-3, atol=6e-8)
    for row, expected in enumerate(signals):
        found = dict(zip(store.signal_names, store.signals[row], strict=True))
        assert found == pytest.approx(expected, abs=1e-4)
    reopened = open_store(tmp_path, passages, model)
    assert reopened.done.all()
    np.testing.assert_array_equal(reopened.groups["answer"], store.groups["answer"])


@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_a_kill_loses_the_batch_in_flight_only(tmp_path, monkeypatch, killed_after):
    model, passages = shared_tiny("Llama"), make_passages(12)
    whole = open_store(tmp_path / "whole", passages, model)
    extract(model, passages, whole, batch_tokens=30)
    batches = []
    real = PassageReader.read

    def counted(reader, batch):
        if len(batches) == killed_after:
            raise KeyboardInterrupt
        batches.append([passage.key for passage in batch])
        return real(reader, batch)

    monkeypatch.setattr(PassageReader, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        extract(model, passages, open_store(tmp_path / "cut", passages, model), batch_tokens=30)
    done = sum(len(keys) for keys in batches)
    killed_after = -1
    resumed = open_store(tmp_path / "cut", passages, model)
    assert resumed.done.sum() == done
    extract(model, passages, resumed, batch_tokens=30)
    asked = [key for keys in batches for key in keys]
    assert sorted(asked) == sorted(p.key for p in passages)  # none twice
    for name in GROUPS:
        np.testing.assert_allclose(resumed.groups[name], whole.groups[name], rtol=2e-3, atol=1e-6)


def test_features_without_their_signals_are_not_done(tmp_path, monkeypatch):
    model, passages = shared_tiny("Llama"), make_passages(3)
    store = open_store(tmp_path, passages, model)
    extract(model, passages[:0], store)
    store.signals[1] = 1.0
    store.signals[2, :4] = 1.0  # torn in the middle of a row
    assert open_store(tmp_path, passages, model).done.tolist() == [False, True, False]


def test_a_store_of_other_rows_or_settings_is_refused_and_left_alone(tmp_path):
    model, passages = shared_tiny("Llama"), make_passages(4)
    extract(model, passages, open_store(tmp_path, passages, model))
    for changed, settings in ((passages[::-1], None), (passages[:3], None), (passages, {"v": 2})):
        with pytest.raises(StageMismatchError, match="another --out, or delete"):
            open_store(tmp_path, changed, model, settings)
    assert open_store(tmp_path, passages, model).done.all()


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path, monkeypatch):
    model, passages = shared_tiny("Llama"), make_passages(4)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path, passages, model)
    monkeypatch.undo()
    store = open_store(tmp_path, passages, model)
    assert not store.done.any()


def test_features_that_are_not_finite_are_named_and_not_kept(tmp_path):
    model, passages = build_tiny("Llama"), make_passages(3)
    with torch.inference_mode():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    store = open_store(tmp_path, passages, model)
    with pytest.raises(ValueError, match=r"s/\d: .*not finite"):
        extract(model, passages, store)
    assert not store.done.any()


def test_batches_hold_the_token_budget(tmp_path, monkeypatch):
    model, passages = shared_tiny("Llama"), make_passages(30)
    real, shapes = PassageReader.read, []

    def seen(reader, batch):
        shapes.append((len(batch), max(passage.length for passage in batch)))
        return real(reader, batch)

    monkeypatch.setattr(PassageReader, "read", seen)
    extract(model, passages, open_store(tmp_path, passages, model), batch_tokens=64)
    assert all(rows * columns <= 64 or rows == 1 for rows, columns in shapes)
    assert len(shapes) < 10


def _peak_bytes(run):
    """Most memory that `run` made resident on top of what was."""

    def status(field):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    model = build_tiny("Llama", intermediate_size=20_000)  # 720 kB a row on disk
    few, many = (
        [Passage(f"s/{i}", (5, 6, 7, 8), (9, 10, 11, 12), (AnswerSpan(0, 2),)) for i in range(n)] for n in (20, 240)
    )
    extract(model, few, open_store(tmp_path / "warm", few, model), batch_tokens=64)
    peaks = [
        _peak_bytes(lambda p=p, name=name: extract(model, p, open_store(tmp_path / name, p, model), batch_tokens=64))
        for p, name in ((few, "few"), (many, "many"))
    ]
    assert (tmp_path / "many/answer.npy").stat().st_size * len(GROUPS) > 170e6
    assert peaks[1] - peaks[0] < 60e6  # it goes up and down by 30 MB with the allocator's mood
