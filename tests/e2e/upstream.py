"""A stand-in for the model behind the gateway: an OpenAI-compatible server that says what the test wants said.

Whatever serves `/v1/chat/completions` can take its place; hguard itself does, once its answers are to be chosen.
"""

import asyncio
import json
import threading
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

WORD_SECONDS = 0.03


class Upstream:
    """Streams a word an event."""

    def __init__(self) -> None:
        self.reply = ""
        self.calls = 0
        self.address = ""
        self.before_reply = lambda: None

    async def chat(self, request: Request):
        return await self._answer(request, "chat.completion", lambda text: {"message": _message(text)}, _delta)

    async def complete(self, request: Request):
        return await self._answer(request, "text_completion", _text, _text, chunk="text_completion")

    async def models(self, request: Request):
        return JSONResponse({"object": "list", "data": [{"id": "upstream", "object": "model", "owned_by": "test"}]})

    async def _answer(self, request, kind, whole, part, chunk="chat.completion.chunk"):
        body = await request.json()
        self.calls += 1
        self.before_reply()
        head = {"id": "up-1", "created": 1, "model": "upstream"}

        def event(text, finish_reason):
            choice = {"index": 0, **part(text), "finish_reason": finish_reason}
            return f"data: {json.dumps({**head, 'object': chunk, 'choices': [choice]})}\n\n"

        async def events():
            for word in self.reply.split(" "):
                yield event(word + " ", None)
                await asyncio.sleep(WORD_SECONDS)
            yield event("", "stop")
            yield "data: [DONE]\n\n"

        if body.get("stream"):
            return StreamingResponse(events(), media_type="text/event-stream")
        choice = {"index": 0, **whole(self.reply), "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return JSONResponse({**head, "object": kind, "choices": [choice], "usage": usage})


@contextmanager
def serve_upstream():
    upstream = Upstream()
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", upstream.chat, methods=["POST"]),
            Route("/v1/completions", upstream.complete, methods=["POST"]),
            Route("/v1/models", upstream.models),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    upstream.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.should_exit = True
        thread.join(10)


def _message(text):
    return {"role": "assistant", "content": text}


def _delta(text):
    return {"delta": {"content": text}}


def _text(text):
    return {"text": text}
