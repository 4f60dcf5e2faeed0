"""GET / and its files: who may have them, with which headers, and that nothing else can be had there."""

import re

import httpx
import pytest

from service.routes.page import FILES
from tests.keys import write_keys

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@pytest.fixture
async def keyed(serve, tmp_path):
    return await serve(api_keys_file=write_keys(tmp_path))


async def test_the_page_needs_no_key_and_what_it_asks_for_does(keyed):
    assert (await keyed.get("/")).status_code == 200
    for address in ("/version", "/probes"):
        assert (await keyed.get(address)).status_code == 401
    assert (await keyed.post("/generate", json={"prompt": "q"})).status_code == 401


@pytest.mark.parametrize("name", sorted(FILES))
async def test_each_file_comes_whole_with_its_type(keyed, name):
    answer = await keyed.get(f"/page/{name}")
    assert (answer.status_code, answer.content) == (200, FILES[name].content)
    assert answer.headers["content-type"] == f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"


@pytest.mark.parametrize("address", ["/", "/page/app.js", "/page/base.css"])
async def test_hazard_a_browser_runs_what_we_did_not_send(serve, address):
    headers = (await (await serve()).get(address)).headers
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert {rules[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


async def test_hazard_an_old_page_meets_a_new_service(serve):
    """Kept, but never used without asking: the ETag answers 304 only to the very same bytes."""
    client = await serve()
    first = await client.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    for shown in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = await client.get("/page/app.js", headers={"if-none-match": shown})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    other = await client.get("/page/app.js", headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


NAMES = ["..%2faccess.py", "%2e%2e%2faccess.py", "..%5caccess.py", "nothing.js", "__init__.py", "app.js/", "%00"]


@pytest.mark.parametrize("name", NAMES)
async def test_hazard_a_path_leads_out_of_the_folder(keyed, name):
    answer = await keyed.get(httpx.URL(f"http://test/page/{name}"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_the_page_can_be_turned_off(serve):
    client = await serve(page=False)
    answer = await client.get("/")
    assert (answer.headers["content-type"], answer.json()["service"]) == ("application/json", "hguard")
    assert (await client.get("/page/app.js")).status_code == 404
    assert "/" in (await client.get("/openapi.json")).json()["paths"]


async def test_the_document_of_the_api_has_the_page_and_not_its_files(serve):
    paths = (await (await serve()).get("/openapi.json")).json()["paths"]
    assert list(paths["/"]["get"]["responses"]["200"]["content"]) == ["text/html"]
    assert not [path for path in paths if path.startswith("/page")]


def test_hazard_a_file_names_another_origin_or_an_inline_script():
    for name, file in FILES.items():
        text = file.content.decode()
        addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name  # a namespace, never fetched
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " onclick",
            " style=",
        ):
            assert forbidden not in text, (name, forbidden)
    assert re.findall(r"<script[^>]*>", FILES["index.html"].content.decode()) == [
        '<script type="module" src="page/app.js">'
    ]


def test_files_are_small_and_all_of_them_are_used():
    together = "".join(file.content.decode() for file in FILES.values())
    for name, file in FILES.items():
        assert len(file.content.splitlines()) < 250, name
        assert name == "index.html" or f"/{name}" in together, name
