"""Asks an OpenAI-compatible endpoint many small questions: bounded concurrency, retries, a cache that survives a kill.

It knows chat messages and their hashes; what is asked and how a reply is read is its callers' business.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import tenacity
from openai.types.chat import ChatCompletionMessageParam

RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)
"""Errors that may pass: no connection or time-out, 429, 5xx."""

Messages = Sequence[ChatCompletionMessageParam]


class EndpointError(RuntimeError):
    """The endpoint cannot be used as it is configured; the message names the fix."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Where and how to ask."""

    model: str
    base_url: str | None = None
    """None = the client's default, which `OPENAI_BASE_URL` overrides."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key."""
    concurrency: int = 8
    attempts: int = 5
    timeout_seconds: float = 60.0
    max_tokens: int = 64
    backoff_seconds: float = 1.0
    """First wait between attempts; doubled each time, with jitter, up to a minute."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one conversation."""

    text: str | None
    """None where no attempt got an answer."""
    reason: str = ""
    """Why there is no text."""


class ReplyCache:
    """Replies on disk, one JSON line each, keyed by a hash of all that decides the reply.

    A line is written whole and flushed before it counts, and a torn last line of a killed run is cut off on opening.
    One process at a time writes a file.
    """

    def __init__(self, path: Path | None) -> None:
        """Open or make a cache; None keeps it in memory only."""
        self._path = path
        self._lock = threading.Lock()
        self._replies: dict[str, str] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with path.open("rb+") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            row = json.loads(line)
            self._replies[row["key"]] = row["reply"]

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> str | None:
        """Return a kept reply."""
        return self._replies.get(key)

    def put(self, key: str, reply: str) -> None:
        """Keep a reply."""
        with self._lock:
            self._replies[key] = reply
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n")


class ChatClient:
    """Sends conversations and returns replies in order."""

    def __init__(self, settings: ChatSettings, cache_path: Path | None = None) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            settings: where and how to ask.
            cache_path: JSON-lines file of replies, shared by runs; None for none.

        Raises:
            EndpointError: no key, and no endpoint of one's own that may do without.
        """
        key = os.environ.get(settings.api_key_env, "")
        own_endpoint = settings.base_url or os.environ.get("OPENAI_BASE_URL")
        if not key and not own_endpoint:
            raise EndpointError(
                f"set {settings.api_key_env} to the key of the endpoint, or give the base_url of your own"
            )
        self.settings = settings
        self._cache = ReplyCache(cache_path)
        # The client's own retries are off: two layers of them would multiply the waits.
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=own_endpoint, max_retries=0, timeout=settings.timeout_seconds
        )

    def ask_all(self, conversations: Sequence[Messages], is_valid: Callable[[str], bool]) -> list[Reply]:
        """Send conversations, several at a time.

        Args:
            conversations: messages of each.
            is_valid: says whether a reply can be read; only such replies are cached, so the others are asked again in
                the next run.

        Returns:
            One reply a conversation, in the order given; a failed one has no text.

        Raises:
            EndpointError: the endpoint refuses the key, the model or the address, so every request would fail.
        """
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            futures = [pool.submit(self._ask, messages, is_valid) for messages in conversations]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _ask(self, messages: Messages, is_valid: Callable[[str], bool]) -> Reply:
        key = self._key(messages)
        kept = self._cache.get(key)
        if kept is not None:
            return Reply(kept)
        try:
            text = self._send(messages)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise EndpointError(
                f"{self._client.base_url} answers {error.status_code} to model {self.settings.model!r}: check "
                f"base_url, the model name and the key in {self.settings.api_key_env}"
            ) from error
        except openai.APIStatusError as error:
            return Reply(None, f"HTTP {error.status_code}")
        except openai.OpenAIError as error:
            return Reply(None, type(error).__name__)
        except ValueError:
            return Reply(None, "the endpoint's answer is not a chat completion")
        if is_valid(text):
            self._cache.put(key, text)
        return Reply(text)

    def _send(self, messages: Messages) -> str:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(RETRIED),
            stop=tenacity.stop_after_attempt(self.settings.attempts),
            wait=tenacity.wait_random_exponential(multiplier=self.settings.backoff_seconds, max=60),
            reraise=True,
        )
        return retrying(self._send_once, messages)

    def _send_once(self, messages: Messages) -> str:
        answer = self._client.chat.completions.create(
            model=self.settings.model, messages=list(messages), temperature=0.0, max_tokens=self.settings.max_tokens
        )
        # An endpoint that answers 200 with something else makes the client build an object without these fields.
        choices = getattr(answer, "choices", None)
        text = choices[0].message.content if choices else None
        if not isinstance(text, str):
            raise ValueError("no text in the answer")
        return text

    def _key(self, messages: Messages) -> str:
        decides = [str(self._client.base_url), self.settings.model, self.settings.max_tokens, list(messages)]
        return hashlib.sha256(json.dumps(decides, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
