"""Chat text: messages as OpenAI clients send them, content as text or as parts of text, in our own shape."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError

from service.schemas.prompt import Message, Prompted


def join_parts(content: object) -> object:
    """The text of a message's content; what has no text only is returned as it came.

    Args:
        content: Text, or a list of `{"type": "text", "text": ...}`.
    """
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    if len(texts) < len(content):
        raise PydanticCustomError("parts", "content is text, or parts of type text: this model reads nothing else")
    return "".join(texts)


class ChatMessage(Message):
    """One turn, its content as text or in parts."""

    content: Annotated[str, BeforeValidator(join_parts)]


def read_conversation(rows: Sequence[Mapping[str, object]]) -> tuple[Message, ...]:
    """A conversation that ends with the user's turn, from messages with any fields.

    Args:
        rows: Messages of a chat completion request.

    Returns:
        The turns; none where some message is not a text of the system, the user or the assistant (an image, a call or
        the result of a tool): what is left without it is not what the model was asked.
    """
    roles = {"developer": "system"}
    try:
        turns = []
        for row in rows:
            if row.get("tool_calls") or row.get("function_call"):
                return ()
            role = str(row.get("role"))
            turn = ChatMessage.model_validate({"role": roles.get(role, role), "content": row.get("content")})
            turns.append(Message(role=turn.role, content=turn.content))
        return tuple(Prompted(messages=turns).messages or ())
    except ValidationError:
        return ()
