"""Every route of the application refuses whoever has no key for it: the matrix is made from the routes themselves."""

import pytest
from fastapi import FastAPI
from starlette.routing import Route

from service.admission.access import ROUTES
from service.app import create_app
from service.settings import Settings
from tests.keys import SCOPES, show, write_keys
from tests.serving import make_parts

KEYS = ["no key", "wrong key", *SCOPES]


def real_routes():
    """(method, path template) of everything that the application answers."""
    routes = create_app(Settings(engine="fake"), make_parts()).routes
    return sorted((method, route.path) for route in routes for method in route.methods - {"HEAD"})


def headers_of(key):
    return {} if key == "no key" else show(key)


def fill(path):
    """An address that the template matches."""
    return path.replace("{", "").replace("}", "")


def is_admitted(answer):
    """The request reached its handler: what that says of an empty body does not matter here."""
    return answer.status_code not in (401, 403)


def test_hazard_a_new_route_is_not_in_the_table():
    missing = [f"{method} {path}" for method, path in real_routes() if f"{method} {path}" not in ROUTES]
    assert not missing, "add them to service/admission/access.py with the scope that they need"


@pytest.fixture
async def keyed(serve, tmp_path):
    return await serve(api_keys_file=write_keys(tmp_path))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("method", "path"), real_routes())
async def test_matrix(keyed, method, path, key):
    need = ROUTES[f"{method} {path}"]
    answer = await keyed.request(method, fill(path), headers=headers_of(key))
    if need == "public" or key == need or (need == "any" and key in SCOPES):
        assert is_admitted(answer), answer.text
        return
    status, code = (403, "scope_missing") if key in SCOPES else (401, "invalid_api_key")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)
    assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


@pytest.mark.parametrize(("method", "path"), real_routes())
async def test_without_a_file_all_but_admin_is_open(serve, method, path):
    client = await serve()
    answer = await client.request(method, fill(path), headers=headers_of("wrong key"))
    assert is_admitted(answer) == (ROUTES[f"{method} {path}"] != "admin"), answer.text


@pytest.mark.parametrize("kind", ["route", "mount"])
async def test_hazard_a_route_outside_the_table_is_open(serve, tmp_path, kind):
    client = await serve(api_keys_file=write_keys(tmp_path))
    app = client._transport.app
    if kind == "route":
        app.add_api_route("/backdoor", lambda: "open", methods=["GET"])
    else:
        inner = FastAPI()
        inner.add_api_route("/", lambda: "open")
        app.mount("/backdoor", inner)
    for key in KEYS:
        answers = [await client.get(address, headers=headers_of(key)) for address in ("/backdoor", "/backdoor/")]
        assert {answer.status_code for answer in answers} == {403, 404}, key
        assert "route_closed" in {answer.json()["error"]["code"] for answer in answers}


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "TRACE"])
async def test_hazard_another_method_reaches_a_handler(keyed, method):
    for address in ("/generate", "/metrics", "/openapi.json", "//generate", "/generate/", "/%67enerate"):
        answer = await keyed.request(method, address)
        assert answer.status_code in (401, 404, 405) or (method, address) == ("HEAD", "/openapi.json"), address


@pytest.mark.parametrize("address", ["/%67enerate", "/generate?x=1", "/generate;x"])
async def test_hazard_another_spelling_of_a_path_passes_without_a_key(keyed, address):
    assert (await keyed.post(address, json={"prompt": "q"})).status_code in (401, 404)


async def test_an_unknown_path_is_no_matter_of_keys(keyed):
    assert (await keyed.get("/nothing")).status_code == 404


async def test_a_body_is_not_read_before_the_key_was(keyed):
    read = 0

    async def chunks():
        nonlocal read
        for _ in range(64):
            read += 1
            yield b" " * (1 << 16)

    answer = await keyed.post("/generate", content=chunks(), headers={"content-type": "application/json"})
    assert (answer.status_code, read) == (401, 0)


async def test_refusals_are_counted_under_their_route(keyed):
    await keyed.post("/generate", json={"prompt": "q"})
    text = (await keyed.get("/metrics", headers=show("metrics"))).text
    assert 'hguard_requests_total{action="none",code="401",route="/generate"} 1.0' in text


def test_every_route_is_plain():
    """The matrix above sees methods and paths; a mount or a websocket would need tests of its own."""
    assert all(isinstance(route, Route) for route in create_app(Settings(engine="fake"), make_parts()).routes)
