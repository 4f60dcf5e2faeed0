"""Which token ids a model can take; the same for every engine that runs one."""

from collections.abc import Sequence

from service.engines.base import Engine, RequestTooLongError


def check_ids(engine: Engine, vocabulary: int, ids: Sequence[int], more: int = 0) -> None:
    """A sequence fits the model.

    Args:
        engine: Whose `max_model_len` bounds it.
        vocabulary: Of the model.
        ids: Token ids that are given.
        more: Tokens that will be generated.

    Raises:
        RequestTooLongError: It is too long.
        ValueError: It is empty, or a token id is not the model's.
    """
    if not ids:
        raise ValueError("the prompt is empty")
    if len(ids) + more > engine.max_model_len:
        raise RequestTooLongError(
            f"{len(ids)} tokens and {more} to generate are more than the {engine.max_model_len} of {engine.model_name}"
        )
    if min(ids) < 0 or max(ids) >= vocabulary:  # on a GPU this would end the whole process
        raise ValueError(f"a token id is outside the model's vocabulary of {vocabulary}")
