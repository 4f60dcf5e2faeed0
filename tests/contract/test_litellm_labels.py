"""Answers that LiteLLM's gateway brought are labelled by the id of its call and their place."""

import json

import pytest

from tests.contract.labelling import label
from tests.contract.test_litellm_guardrail import ANSWER, RESPONSE, post, remember
from tests.serving import make_parts, wait_until


@pytest.mark.parametrize(("call_id", "name"), [("call-1", "litellm-call-1"), ("a b", None), ("x" * 121, None)])
async def test_each_answer_can_be_labelled_under_the_id_of_its_call(serve, tmp_path, call_id, name):
    client = await serve(make_parts(locator="response"), feedback_url=f"sqlite:///{tmp_path}/labels.db")
    await remember(client, litellm_call_id=call_id)
    texts = ["", ANSWER, "It is Rome."]
    found = await post(client, RESPONSE, {"policy": "annotate"}, litellm_call_id=call_id, texts=texts)
    assert found["id"] == name or (name is None and found["id"].startswith("gen-"))
    codes = [(await label(client, found["id"], "faithful", choice=choice)).status_code for choice in range(4)]
    assert codes == [404, 200, 200, 404]  # the first is empty and was not judged


async def test_an_answer_that_was_not_judged_has_no_id_and_the_audit_names_each_ones_place(serve, tmp_path):
    parts = make_parts()
    client = await serve(parts, audit_log=tmp_path / "audit.jsonl")
    await remember(client)
    assert (await post(client, RESPONSE, texts=["", ANSWER, "It is Rome."]))["id"] == "litellm-call-1"
    parts.engine.fault = "crash"
    assert (await post(client, RESPONSE))["id"] is None
    await wait_until(lambda: (tmp_path / "audit.jsonl").read_text().count("\n") >= 2)
    judged, failed = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()][-2:]
    assert [(one["index"], one["text"]) for one in judged["choices"]] == [(1, ANSWER), (2, "It is Rome.")]
    assert (judged["id"], failed["choices"]) == ("litellm-call-1", None)


async def test_of_a_stream_judged_in_pieces_the_latest_is_labelled(serve, tmp_path):
    client = await serve(make_parts(locator="response"), feedback_url=f"sqlite:///{tmp_path}/labels.db")
    await remember(client)
    for end in (10, len(ANSWER)):
        await post(client, RESPONSE, {"policy": "annotate"}, texts=[ANSWER[:end]])
    span = {"start": 14, "end": len(ANSWER)}
    assert (await label(client, "litellm-call-1", "faithful", span=span)).status_code == 200
