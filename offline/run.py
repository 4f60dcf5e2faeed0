"""Run: a refresh under way, its configuration, and the model, loaded when a stage first needs it. Runs no stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from offline.extraction.extract import FeatureStore, extract
from offline.extraction.passages import Passage
from offline.records import Question
from offline.sampling.sample import Draws, Sampler
from probes.checkpoint import Checkpoint
from probes.models import load_model, load_tokenizer, pick_device, pick_dtype, resolve_model
from probes.prompts import ANSWER_ONLY, encode_prompt

if TYPE_CHECKING:
    from offline.sampling.sample_vllm import VllmSampler


@dataclass(frozen=True)
class RunConfig:
    """What a refresh is asked to do; the command line's nouns."""

    model: str
    questions: tuple[str, ...]
    out: Path
    limit: int | None = None
    """Most questions a source."""
    seed: int = 0
    samples: int = 10
    """Temperature samples of a question that matters."""
    agreement: float = 1.0
    """Share of the samples with equal verdicts that keeps a question; the paper's 10 of 10 is 1.0."""
    wrong_per_right: float = 1.1
    """Wrong questions asked again for each right one of the same source and group; fewer do where few right answers are
    consistent, since the classes are balanced afterwards."""
    max_tokens: int = 50
    batch_rows: int = 128
    dtype: str = "auto"
    """Of the features and the golden trace."""
    sampling_dtype: str = "auto"
    device: str = "auto"
    sampler: str = "auto"
    """`vllm`, `transformers`, or `auto`: vLLM where it is installed and a GPU is there."""
    extractor: str = "auto"
    """Likewise, but mixtures of experts are left to transformers."""
    judge: str = "alias"
    """`alias`, or the name of a model behind an OpenAI-compatible endpoint."""
    sentences: bool = False
    """Ask without "answer only", so that the model answers in sentences."""
    spans: str = "lexical"
    """`lexical`, `alias`, `short-answer` or `openai`."""
    endpoint: str | None = None
    """Base address of the OpenAI-compatible endpoint; its key is read from the environment."""
    max_per_mille: float = 1.0
    """Most H-neurons per thousand neurons that the grid may choose."""
    unfiltered: int = 1000
    """Most unfiltered rows in each of calibration and test."""
    reuse: Path | None = None
    """Folder of an earlier run whose answers to the same questions are taken over."""
    domains: tuple[str, ...] = ()
    """Question sources that the probe is only evaluated on."""
    domain_rows: int = 600
    """Most questions a domain."""


class Run:
    """A refresh under way: its configuration, and the model, loaded when first needed."""

    def __init__(self, config: RunConfig) -> None:
        """Begin; nothing is loaded yet.

        Raises:
            ValueError: vLLM is asked for and not installed.
        """
        for option, chosen in (("sampler", config.sampler), ("extractor", config.extractor)):
            if chosen == "vllm" and find_spec("vllm") is None:
                raise ValueError(f"--{option} vllm: vLLM is not installed here; `make vllm` installs it")
        self.config = config
        self.out = config.out
        self._loaded: tuple[str, nn.Module] | None = None
        self._vllm: VllmSampler | None = None

    @cached_property
    def folder(self) -> Path:
        """The model's local folder."""
        return resolve_model(self.config.model)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's names and sizes."""
        return Checkpoint(self.folder)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(self.folder)

    def model(self, dtype: str) -> nn.Module:
        """The model in a dtype; the one loaded last is kept."""
        if self._loaded is None or self._loaded[0] != dtype:
            self._loaded = None
            self._close_vllm()
            self._loaded = (dtype, load_model(self.folder, dtype=dtype, device=self.config.device))
        return self._loaded[1]

    def ask(self, question: Question, *, sentences: bool | None = None) -> str:
        """The user's turn, in the run's style or the one named; the locator reads it too, as it does online."""
        plain = self.config.sentences if sentences is None else sentences
        return question.question + ("" if plain else ANSWER_ONLY)

    def encode(self, question: Question, *, sentences: bool | None = None) -> list[int]:
        """Prompt token ids of a question."""
        return encode_prompt(self.tokenizer, self.ask(question, sentences=sentences))

    def sampler(self, *, sentences: bool | None = None) -> Draws:
        """A sampler that asks in the run's style or the one named."""
        c = self.config
        common: dict[str, Any] = {"seed": c.seed, "max_tokens": c.max_tokens, "max_rows": c.batch_rows}
        if not self.samples_on_vllm:
            model = self.model(c.sampling_dtype)
            return Sampler(model, self.tokenizer, partial(self.encode, sentences=sentences), **common)
        if self._vllm is None:
            from offline.sampling.sample_vllm import VllmSampler

            self._loaded = None
            dtype, device = c.sampling_dtype, c.device
            self._vllm = VllmSampler(self.folder, self.tokenizer, self.encode, dtype=dtype, device=device, **common)
        self._vllm.encode = partial(self.encode, sentences=sentences)
        return self._vllm

    @property
    def samples_on_vllm(self) -> bool:
        """Whether answers are drawn by vLLM."""
        return self._suits_vllm if self.config.sampler == "auto" else self.config.sampler == "vllm"

    @property
    def extracts_on_vllm(self) -> bool:
        """Whether features are extracted by vLLM."""
        if self.config.extractor != "auto":
            return self.config.extractor == "vllm"
        return self._suits_vllm and all(block.gives_h for block in self.checkpoint.blocks)

    @property
    def _suits_vllm(self) -> bool:
        return find_spec("vllm") is not None and pick_device(self.config.device).type == "cuda"

    def extract(self, passages: Sequence[Passage], store: FeatureStore) -> None:
        """Fill the store.

        Raises:
            ValueError: The model gave features that are not finite, or is one that the extractor cannot read.
        """
        c = self.config
        if not self.extracts_on_vllm:
            extract(self.model(c.dtype), passages, store)
            return
        from offline.extraction.extract_vllm import extract_on_vllm

        self._loaded = None
        self._close_vllm()
        extract_on_vllm(self.folder, passages, store, dtype=c.dtype, device=c.device)

    def _close_vllm(self) -> None:
        if self._vllm is not None:
            self._vllm.close()
            self._vllm = None

    @property
    def sampling_settings(self) -> dict[str, Any]:
        """What decides sampled rows, beside the questions."""
        c = self.config
        return {
            "model": c.model,
            "seed": c.seed,
            "max_tokens": c.max_tokens,
            "dtype": c.sampling_dtype,
            "sentences": c.sentences,
            **({"sampler": "vllm"} if self.samples_on_vllm else {}),
        }

    @property
    def extraction_settings(self) -> dict[str, Any]:
        """What decides features, beside the passages.

        In float32 both extractors give the same features up to float16 rounding; in half precision up to the rounding
        of their kernels, which one store is not to mix.
        """
        dtype = str(pick_dtype(self.config.dtype, pick_device(self.config.device)))
        return {"dtype": dtype, **({"extractor": "vllm"} if self.extracts_on_vllm else {})}
