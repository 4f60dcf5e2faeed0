"""A real HTTP server on the loopback interface that speaks just enough of the chat completions API."""

import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatEndpoint:
    """What the server answers and what it was asked.

    `script` is used up first: an int is a status, "SLOW" a time-out, "NOT JSON" and "NO CHOICES" are garbage, any other
    text is the reply. Then `reply` makes one from the request.
    """

    def __init__(self, url):
        self.url = url
        self.script = []
        self.requests = []
        self.reply = lambda request: "WRONG"
        self.lock = threading.Lock()

    def next_answer(self, request):
        with self.lock:
            self.requests.append(request)
            return self.script.pop(0) if self.script else self.reply(request)


def to_body(answer):
    if answer == "NOT JSON":
        return b"<html>proxy error</html>"
    if answer == "NO CHOICES":
        return b'{"object": "chat.completion"}'
    message = {"role": "assistant", "content": answer}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "judge-model", "choices": [choice]}
    ).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.endpoint.next_answer(request)
        if answer == "SLOW":
            time.sleep(1.0)
            return
        status = answer if isinstance(answer, int) else 200
        body = b'{"error": {"message": "no"}}' if isinstance(answer, int) else to_body(answer)
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if answer == "NOT JSON" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Keep the test output clean."""


class LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self):
        # The standard one asks the name service for this machine's name, which takes seconds without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address
