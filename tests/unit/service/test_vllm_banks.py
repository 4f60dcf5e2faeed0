import asyncio

import numpy as np
import pytest

from probes.checkpoint import RoutedRows
from probes.neurons import NeuronSet
from service.engines.base import EngineError, HeadBank
from service.engines.vllm_banks import Banks

WIDTHS = (6, 10)
DENSE = RoutedRows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3, 0), np.float32))


def bank_of(*flat: int, suppressed: tuple[int, ...] = (), n_heads: int = 1) -> HeadBank:
    neurons = NeuronSet.from_flat(WIDTHS, np.asarray(flat))
    weights = np.arange(1, 1 + n_heads * len(flat), dtype=np.float32).reshape(n_heads, -1)
    names = ("probe", *map(str, range(1, n_heads)))
    return HeadBank(names, neurons, weights, np.asarray(suppressed, dtype=np.int64), "own")


def norms_of(bank: HeadBank) -> np.ndarray:
    return np.asarray(bank.neurons.flat, dtype=np.float32) + 100


async def load(banks: Banks, bank: HeadBank):
    loaded, write = banks.plan(await banks.free_number(), bank, norms_of(bank), DENSE)
    banks.add(loaded, is_default=True)
    return loaded, write


def read(write, slots: np.ndarray) -> tuple[list[int], list[float], list[float]]:
    """Flat neuron, norm and weight of the first head, of these slots."""
    index, norms = np.asarray(write.index), np.asarray(write.norms)
    starts = np.asarray([[0], [WIDTHS[0]]])
    flat = np.where(index >= 0, index + starts, -1).reshape(-1)
    return flat[slots].tolist(), norms.reshape(-1)[slots].tolist(), np.asarray(write.weights)[0][slots].tolist()


async def test_slots_hold_what_the_bank_asks_for():
    bank = bank_of(1, 5, 6, 9, 15, suppressed=(0, 3), n_heads=2)
    loaded, write = await load(Banks(WIDTHS, 4, 3, 2), bank)
    flat, norms, weights = read(write, loaded.slots)
    assert flat == bank.neurons.flat.tolist()
    assert norms == norms_of(bank).tolist()
    assert weights == [1, 2, 3, 4, 5]
    assert np.asarray(write.weights).shape == (2, 8)
    assert np.flatnonzero(np.asarray(write.scaled).reshape(-1)).tolist() == sorted(loaded.slots[[0, 3]])
    assert np.count_nonzero(write.weights) == 10


async def test_hazard_a_new_bank_moves_slots_that_requests_read():
    banks = Banks(WIDTHS, 4, 1, 2)
    first, before = await load(banks, bank_of(1, 5, 6, 9, suppressed=(0,)))
    second, write = await load(banks, bank_of(2, 5, 9, 10, suppressed=(1,)))
    assert (first.number, second.number) == (0, 1)
    assert read(write, first.slots)[:2] == read(before, first.slots)[:2]
    assert read(write, second.slots)[0] == [2, 5, 9, 10]
    assert second.slots[1] == first.slots[1]  # a neuron of both is read once
    assert second.slots[2] == first.slots[3]
    assert np.flatnonzero(np.asarray(write.scaled).reshape(-1)).tolist() == [second.slots[1]]


async def test_hazard_parts_of_a_layer_share_slots():
    """The second layer has routed and shared experts: a part each, and the routed ones' weights go along."""
    bank = bank_of(1, 7, 8, 12, 15, suppressed=(1, 4))
    rows = RoutedRows(np.asarray([1, 2]), np.asarray([0, 1]), np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    banks = Banks((6, 4, 6), 4, 1, 2)
    loaded, write = banks.plan(0, bank, norms_of(bank), rows)
    assert loaded.slots.tolist() == [0, 4, 5, 8, 9]
    assert np.asarray(write.index)[[0, 1, 1, 2, 2], [0, 0, 1, 0, 1]].tolist() == [1, 1, 2, 2, 5]
    slots, experts, weights = write.routed
    assert (slots, experts) == ([4, 5], [0, 1])
    assert np.frombuffer(weights, np.float32).tolist() == list(range(12))
    with pytest.raises(ValueError, match="layer 1 has 2 slots"):
        Banks((6, 4, 6), 2, 1, 2).plan(0, bank_of(10, 11, 12), np.ones(3, np.float32), DENSE)


async def test_slots_of_a_bank_that_is_gone_are_free_again():
    banks = Banks(WIDTHS, 4, 1, 2)
    await load(banks, bank_of(0, 1, 2))
    for flat in ((3,), (0, 1, 2), (4,), (1, 3, 5), (0,)):  # with the one before it never more than four
        loaded, write = await load(banks, bank_of(*flat))
        assert read(write, loaded.slots)[0] == list(flat)


async def test_a_bank_that_does_not_fit_is_refused_in_words_and_leaves_the_others_alone():
    banks = Banks(WIDTHS, 4, 1, 2)
    first, before = await load(banks, bank_of(0, 1, 2, 8))
    with pytest.raises(ValueError, match=r"layer 0 has 4 slots .* restart with HGUARD_VLLM_SLOTS=8"):
        await load(banks, bank_of(3, 4))
    assert banks.current is first
    with pytest.raises(ValueError, match="2 heads are more than the 1"):
        await load(banks, bank_of(3, n_heads=2))
    other = HeadBank(
        ("probe",), NeuronSet.from_flat((6, 9), np.asarray([1])), np.ones((1, 1), np.float32), first.slots, "own"
    )
    with pytest.raises(ValueError, match=r"widths \(6, 9\)"):
        banks.plan(1, other, np.ones(1, np.float32), DENSE)
    with banks.used(first):  # a refused bank took nobody's place
        second, write = await load(banks, bank_of(3, 9))
    assert read(write, first.slots)[:2] == read(before, first.slots)[:2]
    assert read(write, second.slots)[0] == [3, 9]


async def test_hazard_a_load_takes_the_bank_of_a_running_request():
    banks = Banks(WIDTHS, 4, 1, 2)
    first, _ = await load(banks, bank_of(0))
    with banks.used(first):
        second, _ = await load(banks, bank_of(1))
        with banks.used(second):
            third = asyncio.create_task(load(banks, bank_of(2)))
            await asyncio.sleep(0.01)
            assert not third.done()
            assert banks.current is second
        await asyncio.sleep(0.01)
        assert not third.done()  # the current one is not free even when nobody uses it
    loaded, _ = await third
    assert loaded.number == first.number


async def test_hazard_a_request_begins_on_a_bank_that_was_given_away():
    banks = Banks(WIDTHS, 4, 1, 2)
    first, _ = await load(banks, bank_of(0))
    second, _ = await load(banks, bank_of(1))
    with banks.used(first), banks.used(None):
        pass
    banks.plan(first.number, bank_of(2), np.ones(1, np.float32), DENSE)  # under way to the workers, not yet served
    with pytest.raises(EngineError, match="heads were replaced"), banks.used(first):
        pass
    with banks.used(second):
        assert second.running == 1
    assert second.running == 0
