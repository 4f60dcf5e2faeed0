"""LangChain against hguard.

    python deploy/integrations/langchain_client.py "What is the capital of Japan?"

ChatOpenAI drops fields that it does not know, the guard object among them. It keeps the headers, which have the risk of
an answer that is not streamed, and the log-probabilities, which have the risk of each token, streamed or not.
HGUARD_URL is the server (http://127.0.0.1:8000 if unset), HGUARD_CLIENT_KEY its key if it has keys.
"""

import os
import sys

import httpx
from langchain_openai import ChatOpenAI

question = " ".join(sys.argv[1:]) or "What is the capital of Japan?"
url, key = os.environ.get("HGUARD_URL", "http://127.0.0.1:8000"), os.environ.get("HGUARD_CLIENT_KEY", "none")
models = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"}).raise_for_status().json()
chat = ChatOpenAI(
    base_url=f"{url}/v1",
    api_key=key,
    model=models["data"][0]["id"],
    temperature=0,
    max_tokens=64,
    logprobs=True,
    include_response_headers=True,
    extra_body={"guard": {"policy": "flag"}},
)

message = chat.invoke(question)
headers = message.response_metadata["headers"]
print(message.content)
print(f"risk {headers['x-hguard-risk']}, action {headers['x-hguard-action']}, by {headers['x-hguard-probe']}")
for token in message.response_metadata["logprobs"]["content"]:
    print(f"  {token['token']!r}: {token['risk']}")  # of this token alone; None: not scored
