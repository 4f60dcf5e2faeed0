"""OpenAI's client against hguard.

    python deploy/integrations/openai_client.py "What is the capital of Japan?"

Whoever has a client of vLLM or of OpenAI changes its address, and finds `guard` beside what was there before.
HGUARD_URL is the server (http://127.0.0.1:8000 if unset), HGUARD_CLIENT_KEY its key if it has keys.
"""

import os
import sys

import openai

question = " ".join(sys.argv[1:]) or "What is the capital of Japan?"
client = openai.OpenAI(
    base_url=os.environ.get("HGUARD_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("HGUARD_CLIENT_KEY", "none"),
)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": question}]

answer = client.chat.completions.create(
    model=model, messages=messages, temperature=0, max_tokens=64, extra_body={"guard": {"policy": "flag"}}
)
guard = answer.guard  # the guard object of docs/api.md; None for its risk is "not scored", never "no risk"
print(answer.choices[0].message.content)
print(f"status {guard['status']}, risk {guard['risk']}, action {guard['action']}")

# A stream under `block`: a sentence comes once it was judged, and nothing over the threshold comes at all.
stream = client.chat.completions.create(
    model=model, messages=messages, temperature=0, max_tokens=64, stream=True, extra_body={"guard": {"policy": "block"}}
)
for chunk in stream:
    choice = chunk.choices[0]
    print(choice.delta.content or "", end="", flush=True)
    if choice.finish_reason:  # content_filter: the guard withheld it
        print(f"\nfinish_reason {choice.finish_reason}, risk {choice.guard['risk']}")
