"""Open WebUI, the real server, as a process of its own; its administrator, and a browser's socket."""

import json
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import httpx

from tests.e2e.litellm_gateway import Process
from tests.e2e.venvs import venv_with

VERSION = "0.12.4"
FILTER = Path(__file__).parents[2] / "deploy" / "integrations" / "open_webui_filter.py"
QUIET = {  # no question of its own to the model, nothing fetched, no model of its own loaded
    "ENABLE_PERSISTENT_CONFIG": "False",
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ENABLE_OLLAMA_API": "False",
    "ENABLE_TITLE_GENERATION": "False",
    "ENABLE_FOLLOW_UP_GENERATION": "False",
    "ENABLE_TAGS_GENERATION": "False",
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "true",
}
LISTENER = """
import asyncio, json, sys, socketio
async def main():
    client = socketio.AsyncClient()
    client.on("events", lambda event: print(json.dumps(event), flush=True))
    address, token = sys.argv[1:]
    await client.connect(address, auth={"token": token}, socketio_path="/ws/socket.io", transports=["websocket"])
    await client.call("user-join", {"auth": {"token": token}})
    print("joined", flush=True)
    await client.wait()
asyncio.run(main())
"""


def start_open_webui(folder: Path, upstream: str) -> Process:
    """Not waited for. Its environment has 2.9 GB and takes about three minutes, once."""
    home = venv_with(f"open-webui-{VERSION}", "torch==2.13.0+cpu", f"open-webui=={VERSION}")
    command = [home / "bin" / "open-webui", "serve", "--host", "127.0.0.1", "--port", "{port}"]
    own = {"DATA_DIR": str(folder), "WEBUI_SECRET_KEY": "test", "OPENAI_API_BASE_URL": upstream, "OPENAI_API_KEY": "x"}
    return Process(command, "/health", folder, QUIET | own)


class OpenWebUI:
    """Signed in as its first user, who is its administrator."""

    def __init__(self, server: Process, folder: Path) -> None:
        self.client = httpx.Client(base_url=server.address, timeout=60)
        account = {"name": "admin", "email": "admin@example.org", "password": "correct-Horse-7-battery"}
        token = self._post("/api/v1/auths/signup", account)["token"]
        self.client.headers["authorization"] = f"Bearer {token}"
        assert [model["id"] for model in self.client.get("/api/models").json()["data"]] == ["upstream"]
        python = Path(str(server.command[0])).with_name("python")
        self.log = folder / "browser.log"
        with open(self.log, "w") as log:
            self.browser = subprocess.Popen([python, "-c", LISTENER, server.address, token], stdout=log, stderr=log)
        self._wait(lambda: "joined" in self.log.read_text())

    def install(self) -> None:
        """The filter, as an administrator pastes it, for all models."""
        form = {"id": "hguard", "name": "hguard", "meta": {"description": ""}, "content": FILTER.read_text()}
        made = self._post("/api/v1/functions/create", form)
        assert (made["type"], made["meta"]["manifest"]["title"]) == ("filter", "hguard")
        assert self._post("/api/v1/functions/id/hguard/toggle")["is_active"]
        assert self._post("/api/v1/functions/id/hguard/toggle/global")["is_global"]

    def set(self, **valves) -> None:
        self._post("/api/v1/functions/id/hguard/valves/update", valves)

    def ask(self, question: str, *, stream: bool = True) -> httpx.Response:
        """As a program that uses Open WebUI's API."""
        body = {"model": "upstream", "stream": stream, "messages": [{"role": "user", "content": question}]}
        return self.client.post("/api/chat/completions", json=body)

    def chat(self, question: str, *, stream: bool = True) -> tuple[dict, str]:
        """As its page does: the finished message of the history, and all that the browser's socket got."""
        before = len(self.log.read_text())
        asked = {"id": str(uuid4()), "parentId": None, "childrenIds": [], "role": "user", "content": question}
        body = {
            "model": "upstream",
            "stream": stream,
            "messages": [{"role": "user", "content": question}],
            "parent_id": None,
            "session_id": "page",
            "id": str(uuid4()),
            "user_message": asked,
            "background_tasks": {},
        }
        chat_id = self._post("/api/chat/completions", body)["chat_id"]
        found = {}

        def is_finished() -> bool:
            messages = self.client.get(f"/api/v1/chats/{chat_id}").json()["chat"]["history"]["messages"].values()
            found.update(next(message for message in messages if message["role"] == "assistant"))
            return '"chat:outlet"' in self.log.read_text()[before:]

        self._wait(is_finished)
        is_finished()
        return found, self.log.read_text()[before:]

    def close(self) -> None:
        self.browser.kill()
        self.browser.wait()
        self.client.close()

    def _post(self, path: str, body: dict | None = None) -> dict:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _wait(self, condition, seconds: float = 30.0) -> None:
        ends = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends, self.log.read_text()[-2000:]
            time.sleep(0.1)


def said(message: dict) -> list[str]:
    """The lines that Open WebUI shows above an answer."""
    return [entry["description"] for entry in message.get("statusHistory") or []]


def texts_of(answer: httpx.Response) -> tuple[str, list[str]]:
    """Text and finish reasons of a stream of the API."""
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
