"""ModelFingerprint: what a probe remembers of its model, and the refusal of any other one.

Imports torch only where a model is at hand: artifacts are listed without it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probes.probe import Probe

if TYPE_CHECKING:
    from torch import nn


class ModelMismatchError(ValueError):
    """The probe was trained on another model than the one that is loaded."""


@dataclass(frozen=True)
class ModelFingerprint:
    """What a probe remembers of its model."""

    architecture: str
    widths: tuple[int, ...]
    hidden_size: int
    vocabulary_size: int
    tokenizer_sha256: str
    """Of the tokenizer's vocabulary: every token and its id."""
    chat_template_sha256: str
    """"" where the model has no template."""
    name: str = ""
    """The reference it was trained with; for people, never compared."""
    dtype: str = "float32"
    """In which the features were taken; for people, never compared."""


def fingerprint_model(model: "nn.Module", tokenizer: Any, *, name: str = "") -> ModelFingerprint:
    """What identifies a loaded model to a probe."""
    from probes.architectures import layer_widths

    template, config = tokenizer.chat_template or "", _config(model)
    return ModelFingerprint(
        architecture=type(model).__name__,
        widths=layer_widths(model),
        hidden_size=int(config.hidden_size),
        vocabulary_size=int(config.vocab_size),
        tokenizer_sha256=_sha256(_tokenizer_bytes(tokenizer)),
        chat_template_sha256=_sha256(str(template).encode()) if template else "",
        name=name,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
    )


def check_model(trained: ModelFingerprint, probe: Probe, model: "nn.Module", tokenizer: Any) -> None:
    """`check_same_model` for a model in this process.

    Raises:
        ModelMismatchError: Naming what differs.
    """
    from probes.tap import HeadTap

    found = fingerprint_model(model, tokenizer)
    check_same_model(trained, probe, found, lambda: HeadTap(model, probe.neurons).norms.cpu().numpy())


def check_same_model(
    trained: ModelFingerprint, probe: Probe, found: ModelFingerprint, norms_of: Callable[[], NDArray[np.float32]]
) -> None:
    """Refuse a model that the probe was not trained on.

    Compared: architecture, layer widths, sizes, tokenizer, chat template, and the norms of the selected columns of
    W_down, with a tolerance for another dtype or light quantisation (2%).

    Args:
        trained: What the probe remembers of its model.
        probe: The probe.
        found: The fingerprint of the loaded model.
        norms_of: Gives norm(W_down[:, j]) of the probe's neurons in the loaded model [K]; called when the rest agrees.

    Raises:
        ModelMismatchError: Naming what differs.
    """
    for name in (
        "architecture",
        "widths",
        "hidden_size",
        "vocabulary_size",
        "tokenizer_sha256",
        "chat_template_sha256",
    ):
        expected, actual = getattr(trained, name), getattr(found, name)
        if expected != actual:
            raise ModelMismatchError(
                f"probe {probe.name} was trained on {trained.name or 'another model'}: {name} is "
                f"{_brief(expected)} there and {_brief(actual)} in the loaded model; load that model, or train a probe "
                "for this one with offline/train_probe.py"
            )
    norms = norms_of()
    apart = np.abs(norms / probe.norms - 1)
    if not apart.max() <= 0.02:  # nan, from weights that are not finite, is no match
        at = int(apart.argmax())
        layer, j = int(probe.neurons.layer[at]), int(probe.neurons.index[at])
        raise ModelMismatchError(
            f"probe {probe.name}: the weights differ from those it was trained on: neuron {j} of layer "
            f"{layer} has column norm {norms[at]:.5g}, expected {probe.norms[at]:.5g}"
        )


def _tokenizer_bytes(tokenizer: Any) -> bytes:
    return json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False).encode()


def _config(model: "nn.Module") -> Any:
    return model.config


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
