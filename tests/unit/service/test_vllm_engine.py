"""The engine's own side of vLLM; needs no vLLM."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from service.engines.fake import fake_tokenizer
from service.engines.vllm_engine import VllmEngine
from tests.reference.engine_runs import random_bank
from tests.reference.tiny_models import build_tiny


class Core:
    """In the place of a started vLLM."""

    def __init__(self):
        self.tap = None
        self.written = []

    async def start(self, tap):
        self.tap = tap

    def check_started(self): ...

    async def write(self, write):
        self.written.append(write)


@pytest.fixture
def engine(tmp_path):
    sizes = {"vocab_size": 257, "bos_token_id": None, "pad_token_id": None, "eos_token_id": 256}
    build_tiny("Llama", **sizes).save_pretrained(tmp_path)
    fake_tokenizer().save_pretrained(tmp_path)
    engine = VllmEngine(tmp_path, model_name="tiny", device="cpu", arguments={"max_model_len": 100})
    engine._core = Core()
    return engine


async def test_hazard_reading_weights_stops_all_streams(engine, monkeypatch):
    """Matrices of a large model take seconds to read, and the event loop has others to serve."""
    read = []

    def in_thread(name):
        read_weights = getattr(engine.checkpoint, name)

        def reading(neurons):
            read.append((name, threading.current_thread() is threading.main_thread()))
            return read_weights(neurons)

        monkeypatch.setattr(engine.checkpoint, name, reading)

    in_thread("column_norms")
    in_thread("routed_rows")
    await engine.load_heads(replace(random_bank(engine.checkpoint.skeleton), residual=None))
    assert read == [("column_norms", False), ("routed_rows", False)]
    assert len(engine._core.written) == 1


async def test_hazard_a_probe_reads_the_stream_after_a_layer_that_is_not_tapped(engine):
    bank = random_bank(engine.checkpoint.skeleton)
    await engine.start(bank)
    assert engine._core.tap.residual == f"model.layers.{bank.residual.layer}"
    await engine.load_heads(bank)
    other = replace(bank, residual=replace(bank.residual, layer=0))
    with pytest.raises(ValueError, match=r"after model\.layers\.0.*restart with this probe"):
        await engine.load_heads(other)
    assert len(engine._core.written) == 1
    sent = np.frombuffer(engine._core.written[0].stream, dtype=np.float32).reshape(2, -1)
    assert (sent == bank.residual.weights).all()


def test_a_row_is_kept_for_the_last_token(engine):
    assert engine.max_model_len == 99
    assert (engine.device, engine.dtype) == ("cpu", "float32")
