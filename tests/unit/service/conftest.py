"""The transformers engine on a tiny Llama over bytes."""

import pytest

from service.engines.fake import fake_tokenizer
from tests.reference.engine_runs import serving
from tests.reference.tiny_models import build_tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny-llama")
    build_tiny("Llama", vocab_size=257, bos_token_id=None, pad_token_id=None, eos_token_id=256).save_pretrained(place)
    fake_tokenizer().save_pretrained(place)
    return place


@pytest.fixture
async def engine(folder):
    async with serving(folder) as running:
        yield running
