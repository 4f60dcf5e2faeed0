"""POST /generate as a stream: what it says is what the JSON answer says."""

import pytest

from tests.contract.asking import SAMPLED, ask, ask_stream, close


@pytest.mark.parametrize("sampling", [{}, SAMPLED, {"stop": ["s", "\ufffd"]}, {"max_tokens": 1}])
async def test_a_stream_says_exactly_what_the_json_says(serve, parts, sampling):
    client = await serve(parts)
    answer = await ask(client, sampling=sampling)
    events = await ask_stream(client, sampling=sampling)
    (choice,) = answer["choices"]
    names = [name for name, _, _ in events]
    assert names == [
        "start",
        *["token"] * len(choice["guard"]["tokens"]),
        *["span"] * len(choice["guard"]["spans"]),
        "guard",
        "done",
    ]
    tokens = [data for name, _, data in events if name == "token"]
    assert [at for name, at, _ in events if name == "token"] == [str(token["i"]) for token in tokens]
    for streamed, token in zip(tokens, choice["guard"]["tokens"], strict=True):
        assert streamed.pop("index") == 0
        assert streamed.pop("is_answer") is None
        assert token.pop("is_answer") is True
        assert close(streamed, token)
    guard = events[-2][2]
    assert guard["risk"] == pytest.approx(answer["risk"], abs=1e-5) if answer["risk"] else guard["risk"] is None
    done = events[-1][2]
    assert (done["choices"][0]["text"], done["choices"][0]["finish_reason"]) == (
        choice["text"],
        choice["finish_reason"],
    )
    assert "".join(token["text"] for token in tokens) == choice["text"]
    assert done["usage"] == answer["usage"]


async def test_choices_share_a_stream_under_their_index(serve, parts):
    client = await serve(parts)
    sampling = {**SAMPLED, "n": 3}
    answer, events = await ask(client, sampling=sampling), await ask_stream(client, sampling=sampling)
    for choice in answer["choices"]:
        own = [(name, data) for name, _, data in events if data.get("index") == choice["index"]]
        assert "".join(data["text"] for name, data in own if name == "token") == choice["text"]
        assert [name for name, _ in own if name != "token"] == [*["span"] * len(choice["guard"]["spans"]), "guard"]
    assert [name for name, _, _ in events if name in ("start", "done")] == ["start", "done"]
