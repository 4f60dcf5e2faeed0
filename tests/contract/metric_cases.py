"""What each case of a request is to count: the whole of it, as metrics say it to a scraper."""

from dataclasses import dataclass, field
from typing import Any

from tests.serving import QUESTION

REPLY = "The answer is Paris."
N_PROMPT = len(f"[user] {QUESTION}\n[assistant] ")
N = len(REPLY)


def http(route="/generate", code=200, action="none"):
    return {
        f"requests_total{{action={action},code={code},route={route}}}": 1,
        f"request_duration_seconds_count{{route={route}}}": 1,
    }


def generated(n_tokens=N, choices=1, prompt=N_PROMPT):
    return {
        "prompt_tokens_total": prompt,
        "generation_tokens_total": n_tokens * choices,
        "queue_duration_seconds_count": 1,
        "time_to_first_token_seconds_count": choices,
        "inter_token_latency_seconds_count": (n_tokens - 1) * choices,
    }


def passed(choices=1):
    return {f"scoring_duration_seconds_count{{stage={stage}}}": choices for stage in ("tap", "guard")}


def scored(policy="annotate", action="none", choices=1, answer_tokens=5):
    return {
        "scored_responses_total": choices,
        "response_risk_count{probe=fake@0,role=active}": choices,
        "token_risk_count{probe=fake@0,role=active}": answer_tokens * choices,
        f"actions_total{{action={action},policy={policy}}}": choices,
    }


def acted(policy, action):
    return http(action=action) | generated() | passed() | scored(policy, action)


def unscored(reason):
    return generated() | passed() | {f"scoring_failures_total{{reason={reason}}}": 1}


GIVEN = {
    "prompt_tokens_total": N_PROMPT,
    "queue_duration_seconds_count": 1,
    "scoring_duration_seconds_count{stage=teacher_forced}": 1,
}
TWICE = {
    **{name: 2 * value for name, value in generated().items()},
    **passed(2),
    "prompt_tokens_total": N_PROMPT,
    "queue_duration_seconds_count": 1,
    "suppressed_requests_total": 1,
}


@dataclass(frozen=True)
class Case:
    expected: dict[str, int]
    body: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    path: str = "/generate"
    fault: str = "none"
    method: str = "POST"
    reply: str = REPLY


LOW = {"threshold": 0.01}
HELD = {"stream": True, "stream_mode": "hold"}
CASES = {
    "annotate": Case(acted("annotate", "none")),
    "a stream": Case(acted("annotate", "none"), {"stream": True}),
    "policy off": Case(http() | generated() | {"actions_total{action=none,policy=off}": 1}, guard={"policy": "off"}),
    "flag, under the threshold": Case(acted("flag", "none"), guard={"policy": "flag", "threshold": 0.99}),
    "flag": Case(acted("flag", "flagged"), guard={"policy": "flag", **LOW}),
    "block": Case(acted("block", "blocked"), guard={"policy": "block", **LOW}),
    "block, held": Case(
        acted("block", "blocked") | {"hold_delay_seconds_count": N}, HELD, guard={"policy": "block", **LOW}
    ),
    "abstain": Case(acted("abstain", "abstained"), guard={"policy": "abstain", **LOW}),
    "suppress, not better": Case(
        http(action="flagged") | TWICE | scored("suppress", "flagged"), guard={"policy": "suppress", **LOW}
    ),
    "no claim": Case(
        http() | generated(len("I don't know.")) | passed() | {"actions_total{action=none,policy=annotate}": 1},
        reply="I don't know.",
    ),
    "three choices": Case(
        http() | generated(choices=3) | passed(3) | scored(choices=3), {"sampling": {"n": 3, "max_tokens": N + 1}}
    ),
    "a given response": Case(
        http("/score") | GIVEN | scored(),
        {"response": REPLY},
        path="/score",
    ),
    "no rows, closed": Case(http(code=503) | unscored("missing_rows"), fault="missing_rows"),
    "no rows, closed, stream": Case(http(code=503) | unscored("missing_rows"), {"stream": True}, fault="missing_rows"),
    "no rows, open": Case(
        http()
        | unscored("missing_rows")
        | {"fail_open_total{reason=missing_rows}": 1, "actions_total{action=none,policy=block}": 1},
        guard={"policy": "block", "on_error": "fail_open"},
        fault="missing_rows",
    ),
    "nan": Case(http(code=503) | unscored("not_finite"), fault="nan_scores"),
    "the scorer raises": Case(http(code=503) | unscored("scorer_error"), fault="short_rows"),
    "the engine fails in /score": Case(
        http("/score", 503) | GIVEN | {"scoring_failures_total{reason=engine_error}": 1},
        {"response": REPLY},
        path="/score",
        fault="crash",
    ),
    "the engine crashes": Case(http(code=500) | generated(3), fault="crash"),
    "the engine crashes in a stream": Case(http(code=500) | generated(3), {"stream": True}, fault="crash"),
    "the deadline": Case(http(code=504) | generated(3), {"timeout_s": 0.2}, fault="hang"),
    "the deadline of a stream": Case(http(code=504) | generated(3), {"timeout_s": 0.2, "stream": True}, fault="hang"),
    "a wrong field": Case(http(code=422), {"nonsense": 1}),
    "another model": Case(http(code=404), {"model": "another"}),
    "a body that is too large": Case(http(code=413), {"padding": "x" * (1 << 20)}),
    "an unknown path": Case(http("other", 404), path="/nobody/knows/this"),
    "another method": Case(http(code=405), method="PUT"),
}
