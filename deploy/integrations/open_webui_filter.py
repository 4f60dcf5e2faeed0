"""
title: hguard
description: Judges each answer by the risk that hguard gives it; shows the risk, withholds what is over a threshold.
required_open_webui_version: 0.12.4
requirements: httpx
version: 1.0.0

Run with Open WebUI 0.12.4 (tests/e2e/test_open_webui.py). What its hooks can do decides what this filter does:

- Under policy `block` the text is held in the `stream` hook until it was judged; no word of it reaches the browser or
  the database before. `outlet` alone runs after the whole answer was shown.
- Open WebUI swallows an exception in `outlet`, and the answer stands. So nothing raises here: what cannot be judged
  follows `on_error`, and says so.
- An answer that is not streamed leaves before `outlet` sees it. Under `block` a chat is therefore always streamed, and
  programs that ask Open WebUI's API without `"stream": true` are refused. What reaches `outlet` unheld all the same
  (a pipe function's answer) has been seen: it is replaced in the chat and its history.
"""  # noqa: D205, D212, D415 - Open WebUI reads the first lines as fields

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from pydantic import BaseModel, Field

log = logging.getLogger(__name__)

_SHOWN = ("role", "tool_calls")
"""What of a held delta passes: neither text nor reasoning."""


@dataclass
class Verdict:
    """What becomes of an answer."""

    text: str
    """To show: the answer, or what stands in its place."""
    status: str
    """For the line above the answer."""
    is_withheld: bool = False


@dataclass
class Held:
    """One request's state; it lives as long as Open WebUI's request does."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    texts: dict[tuple[str, int], str] = field(default_factory=dict)
    """Text by completion id and choice that the browser has not got yet."""
    judged: set[str] = field(default_factory=set)
    """Texts that left `stream`, so that `outlet` judges none a second time."""


class Filter:
    """Open WebUI makes one of it for all requests and sets `valves` before each call."""

    class Valves(BaseModel):
        """Settings, in Open WebUI under Functions."""

        url: str = Field("http://127.0.0.1:8000", description="address of hguard")
        api_key: str = Field(
            "", description="key with the scope infer", json_schema_extra={"input": {"type": "password"}}
        )
        policy: Literal["block", "flag", "annotate"] = Field(
            "block",
            description="block holds an answer until it was judged; flag and annotate show the risk after the answer",
        )
        threshold: float | None = Field(None, ge=0, le=1, description="risk from which to act; empty: the probe's own")
        on_error: Literal["fail_closed", "fail_open"] = Field(
            "fail_closed", description="an answer that cannot be judged: withheld (under block), or shown unjudged"
        )
        timeout_s: float = Field(20.0, gt=0, description="seconds a verdict may take")
        withheld: str = Field("This answer was withheld.", description="text in place of an answer that is not shown")
        priority: int = Field(100, description="filters with lower numbers run first")

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def inlet(
        self, body: dict[str, Any], __request__: Any = None, __chat_id__: str | None = None
    ) -> dict[str, Any]:
        """Note what was asked, and have the answer streamed where it is to be held.

        Args:
            body: The chat completion request.
            __request__: Open WebUI's; it is the same in all three hooks.
            __chat_id__: None or empty for callers of the API.

        Raises:
            ValueError: An answer that would leave before it was judged; Open WebUI makes it a 400.
        """
        _state(__request__).messages = _plain(body.get("messages", []))
        if self.valves.policy == "block" and not body.get("stream"):
            if not __chat_id__:
                raise ValueError("hguard can hold streams only: send stream: true, or ask hguard's own /v1")
            body["stream"] = True
        return body

    async def stream(
        self, event: dict[str, Any], __request__: Any = None, __event_emitter__: Any = None
    ) -> dict[str, Any]:
        """Hold the text of a chunk under policy block; the last chunk brings what may be shown.

        Args:
            event: One chunk of the model's answer.
            __request__: Open WebUI's.
            __event_emitter__: Shows a status; None for callers of the API.
        """
        if self.valves.policy != "block":
            return event
        if str(event.get("type", "")).startswith("response."):
            # The Responses API repeats the text in many places; what cannot be held whole does not pass.
            await _show(__event_emitter__, "hguard: withheld, a stream of the Responses API cannot be held")
            return {}
        state = _state(__request__)
        for choice in event.get("choices") or []:
            key, delta = (str(event.get("id")), choice.get("index", 0)), choice.get("delta") or {}
            held = state.texts.pop(key, "") + str(delta.get("content") or "")
            shown = {name: delta[name] for name in _SHOWN if name in delta}
            kept = {"index": key[1], "delta": shown, "finish_reason": choice.get("finish_reason")}
            choice.clear()  # logprobs, text and message repeat what is held
            choice.update(kept)
            if not choice["finish_reason"]:
                state.texts[key] = held
            elif held:
                verdict = await self._judge(state.messages, held)
                state.judged.add(verdict.text.strip())
                shown["content"] = verdict.text
                if verdict.is_withheld:
                    choice["finish_reason"] = "content_filter"
                await _show(__event_emitter__, verdict.status)
        return event

    async def outlet(
        self, body: dict[str, Any], __request__: Any = None, __event_emitter__: Any = None
    ) -> dict[str, Any]:
        """Judge an answer that was not held: show its risk, or replace it.

        Args:
            body: The conversation, the answer last.
            __request__: Open WebUI's.
            __event_emitter__: Shows a status.
        """
        messages = body.get("messages") or [{}]
        answer = messages[-1]
        text = answer.get("content")
        state = _state(__request__)
        if any(state.texts.values()):
            await _show(__event_emitter__, "hguard: withheld, the model's stream ended before its answer did")
        if answer.get("role") != "assistant" or not text or str(text).strip() in state.judged:
            return body
        verdict = await self._judge(_plain(messages[:-1]), text)
        if verdict.is_withheld:
            answer["content"] = verdict.text
            if answer.get("output"):  # the answer again, as Open WebUI keeps it for the next turn
                part = {"type": "output_text", "text": verdict.text}
                answer["output"] = [{"type": "message", "role": "assistant", "status": "completed", "content": [part]}]
        await _show(__event_emitter__, verdict.status)
        return body

    async def _judge(self, messages: list[dict[str, Any]], answer: str) -> Verdict:
        """Ask hguard; never raises."""
        valves = self.valves
        guard: dict[str, Any] = {"policy": valves.policy, "on_error": valves.on_error}
        if valves.threshold is not None:
            guard["threshold"] = valves.threshold
        asked = [*messages, {"role": "assistant", "content": answer}]
        headers = {"authorization": f"Bearer {valves.api_key}"} if valves.api_key else {}
        try:
            async with httpx.AsyncClient(timeout=valves.timeout_s + 1) as client:
                found = await client.post(
                    f"{valves.url.rstrip('/')}/v1/checks",
                    json={"messages": asked, "guard": guard, "timeout_s": valves.timeout_s},
                    headers=headers,
                )
            body = found.json()
            if found.status_code != 200:
                return self._unjudged(answer, f"{found.status_code} {body['error']['code']}")
            return self._read(answer, body)
        except Exception as error:  # noqa: BLE001 - one that escapes would let the answer stand
            log.warning("hguard at %s: %s", valves.url, type(error).__name__)
            return self._unjudged(answer, type(error).__name__)

    def _read(self, answer: str, body: dict[str, Any]) -> Verdict:
        risk, guard, threshold = body["risk"], body["guard"], body["guard"]["threshold"]
        if guard["status"] == "failed":
            return self._unjudged(answer, "guard_unavailable")
        if risk is None:
            return Verdict(answer, "hguard: no claim to judge")
        note = ", outside of what the risk was calibrated for" if guard["out_of_domain"] else ""
        measured = f"risk {risk:.2f}{note}"
        if body["status"] == "blocked":
            return Verdict(self.valves.withheld, f"hguard: withheld, {measured}, threshold {threshold:.2f}", True)
        if guard["action"] == "flagged":
            return Verdict(answer, f"hguard: {measured} is not below the threshold {threshold:.2f}")
        return Verdict(answer, f"hguard: {measured}")

    def _unjudged(self, answer: str, reason: str) -> Verdict:
        if self.valves.policy == "block" and self.valves.on_error == "fail_closed":
            return Verdict(self.valves.withheld, f"hguard: withheld, not judged: {reason} (fail_closed)", True)
        return Verdict(answer, f"hguard: NOT judged: {reason}")


def _state(request: Any) -> Held:
    """The state of one request of Open WebUI's."""
    found = getattr(request.state, "hguard", None)
    if not isinstance(found, Held):
        found = request.state.hguard = Held()
    return found


def _plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Role and content; hguard refuses fields that it does not know."""
    return [{"role": message.get("role"), "content": message.get("content")} for message in messages]


async def _show(emitter: Any, text: str) -> None:
    if emitter is not None:
        await emitter({"type": "status", "data": {"description": text, "done": True}})
