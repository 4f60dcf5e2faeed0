"""The checks of `tests/vllm` on CUDA: the same functions, with the engines of this folder's `shelf`."""

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("vllm", reason="vLLM is not installed: make vllm")

from tests.vllm.test_compiled import *  # noqa: F403
from tests.vllm.test_exactness import *  # noqa: F403
from tests.vllm.test_exactness_streams import *  # noqa: F403
from tests.vllm.test_scheduling import *  # noqa: F403

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
