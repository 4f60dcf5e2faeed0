"""Passages that are fed in pieces must give what one pass over each of them gives, wherever they are cut."""

import pytest
import torch

from offline.extraction.passage_reader import PassageReader
from offline.extraction.passage_sums import PassageSums, Piece
from offline.extraction.vllm_extract.runner import ExtractRunner, describe
from probes.architectures import feed_forwards
from probes.cett import column_norms
from tests.reference.tiny_models import shared_tiny
from tests.unit.offline.passages import make_passages

torch.set_num_threads(1)


class Fed:
    """z, h and last hidden states of whole passages, which `step` deals out as an engine would."""

    def __init__(self, model, passages, most=8):
        self.model, self.passages = model, passages
        self.kept = {}
        self.parts = feed_forwards(model)
        norms = [column_norms(part.output.weight) for part in self.parts]
        self.sums = PassageSums(norms, most, model.get_output_embeddings(), self.keep)
        with torch.inference_mode():
            self.seen = [self.run(passage) for passage in passages]

    def run(self, passage):
        seen = [None] * len(self.parts)

        def keep(_module, args, output, *, layer):
            seen[layer] = args[0][0].clone(), output[0]

        hooks = [
            part.output.register_forward_hook(lambda *args, layer=part.layer: keep(*args, layer=layer))
            for part in self.parts
        ]
        output = self.model.model(input_ids=torch.tensor([passage.token_ids]), use_cache=False)
        for hook in hooks:
            hook.remove()
        return seen, output.last_hidden_state[0]

    def keep(self, rows, features, signals):
        for row, feature, signal in zip(rows, features, signals, strict=True):
            assert row not in self.kept
            self.kept[row] = feature.clone(), signal

    @torch.inference_mode()
    def step(self, ranges, *, without=()):
        """One step: {passage: range of its positions}."""
        pieces, place = [], 0
        for row, positions in ranges.items():
            place += len(positions)
            here = slice(place - len(positions), place)
            pieces.append(Piece(row, self.passages[row], positions.start, here))
        self.sums.begin(pieces)

        def rows(tensors):
            return torch.cat([tensor[p.start : p.stop] for tensor, p in zip(tensors, ranges.values(), strict=True)])

        for layer in range(len(self.parts)):
            if layer not in without:
                z, h = (rows([self.seen[row][0][layer][which] for row in ranges]) for which in (0, 1))
                self.sums.add(layer, z, h)
        self.sums.finish(rows([self.seen[row][1] for row in ranges]))

    def check(self):
        with PassageReader(self.model, self.passages).attached() as reader:
            features, signals = reader.read(self.passages)
        assert sorted(self.kept) == list(range(len(self.passages)))
        for row, (feature, signal) in self.kept.items():
            torch.testing.assert_close(feature, features[row], rtol=3e-4, atol=3e-6)
            assert signal == pytest.approx(signals[row], abs=1e-4)


def deal(passages, budget, most):
    """Steps as a scheduler with a token budget makes them: passages in order, cut where the budget ends."""
    fed = [0] * len(passages)
    while any(n < p.length for n, p in zip(fed, passages, strict=True)):
        step, left = {}, budget
        for row, passage in enumerate(passages):
            count = min(left, passage.length - fed[row])
            if count and len(step) < most:
                step[row] = range(fed[row], fed[row] + count)
                fed[row] += count
                left -= count
        yield step


@pytest.mark.parametrize("budget", [1, 3, 7, 40, 1000])
def test_however_passages_are_cut_they_give_what_one_pass_gives(budget):
    passages = make_passages(11, template=(7, 8, 9))
    fed = Fed(shared_tiny("Gemma3"), passages)
    for step in deal(passages, budget, most=8):
        fed.step(step)
    fed.check()


def test_a_passage_that_was_preempted_is_counted_once():
    passages = make_passages(3)
    fed = Fed(shared_tiny("Llama"), passages)
    whole = [range(passage.length) for passage in passages]
    fed.step({0: whole[0], 1: range(passages[1].length - 1)})
    fed.step({1: range(2), 2: whole[2]})
    fed.step({1: range(2, passages[1].length)})
    fed.check()


def test_tokens_that_a_cache_kept_from_being_fed_are_missed():
    passages = make_passages(2)
    fed = Fed(shared_tiny("Llama"), passages)
    with pytest.raises(RuntimeError, match="row 1: tokens before position 2 were not fed"):
        fed.step({0: range(passages[0].length), 1: range(2, passages[1].length)})
    fed.step({0: range(2)})
    with pytest.raises(RuntimeError, match="before position 3"):
        fed.step({0: range(3, passages[0].length)})


def test_a_layer_whose_tap_does_not_run_is_named():
    fed = Fed(shared_tiny("Llama"), make_passages(1))
    with pytest.raises(RuntimeError, match=r"layers \[1\] did not run"):
        fed.step({0: range(fed.passages[0].length)}, without=(1,))
    assert not fed.kept


def test_passes_that_feed_no_passage_change_nothing():
    fed = Fed(shared_tiny("Llama"), make_passages(1))
    z = -torch.ones(3, 48)
    fed.sums.begin(())
    fed.sums.add(0, z, torch.ones(3, 32))
    fed.sums.finish(torch.ones(3, 32))
    assert (z == -1).all()
    assert not fed.kept


class Requests:
    """What the runner reads of vLLM's."""

    class Batch:
        req_ids = ("a", "b", "c")

    class Params:
        def __init__(self, extra_args):
            self.extra_args = extra_args

    class Request:
        def __init__(self, ids, computed, params):
            self.prompt_token_ids, self.num_computed_tokens, self.sampling_params = ids, computed, params


def test_pieces_lie_where_their_requests_do_also_between_requests_that_are_not_ours():
    one, other = make_passages(2)
    runner = ExtractRunner()
    runner.input_batch = Requests.Batch()
    runner.requests = {
        "a": Requests.Request(list(one.token_ids), 2, Requests.Params(describe(7, one))),
        "b": Requests.Request([1, 2, 3], 0, Requests.Params(None)),
        "c": Requests.Request(list(other.token_ids), 0, Requests.Params(describe(3, other))),
    }
    pieces = runner._hguard_pieces([1, 3, 2])
    assert [(piece.row, piece.start, piece.place) for piece in pieces] == [(7, 2, slice(0, 1)), (3, 0, slice(4, 6))]
    for piece, passage in zip(pieces, (one, other), strict=True):
        assert piece.passage.prompt_ids == passage.prompt_ids
        assert piece.passage.response_ids == passage.response_ids
        assert piece.passage.spans == passage.spans


def test_an_error_ends_extraction_and_is_told_not_raised():
    begun = []

    class Sums:
        def begin(self, pieces):
            begun.append(pieces)

    runner = ExtractRunner()
    runner.hguard_sums = Sums()

    def fails():
        raise ValueError("s/1: not finite")

    runner._hguard_try(fails)
    runner._hguard_try(lambda: pytest.fail("goes on"))
    assert runner.hguard_error == "ValueError: s/1: not finite"
    assert begun == [()]


@pytest.mark.parametrize("has_batch", [False, True])
def test_hazard_rows_in_a_batch_of_one_end_the_engine(has_batch):
    """VLLM's back end for models of transformers feeds [1, rows, M], and its layers return h and a bias."""
    added = []

    class Sums:
        def add(self, layer, z, h):
            added.append((layer, z, h))
            if len(added) > 1:
                raise IndexError("of a hook")

        def begin(self, pieces):
            added.append(pieces)

    class Down(torch.nn.Linear):
        def forward(self, z):
            return super().forward(z), None

    runner, down, z = ExtractRunner(), Down(5, 4, bias=False), torch.randn(3, 5)
    runner.hguard_sums = Sums()
    runner.hguard_tap(down, 2)
    h = down(z[None] if has_batch else z)[0]
    layer, seen_z, seen_h = added[0]
    assert layer == 2
    assert torch.equal(seen_z, z)
    assert torch.equal(seen_h, h[0] if has_batch else h)
    down(z)
    assert runner.hguard_error == "IndexError: of a hook"
    assert added[-1] == (), "nothing is read any more"
