"""GET / and GET /page/{name}: the playground, files that are read once; or, with HGUARD_PAGE=0, a line of JSON.

The page has no secrets, so it needs no key; what it asks of the service needs one, as every client does.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from service.schemas.status import Index

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
START = "index.html"

HEADERS = {
    # no-cache: kept, but asked for again by its ETag, so that a new version of the service never runs an old page
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Trusted types: a browser that knows them refuses to parse any text as markup, whoever wrote it."""

router = APIRouter()
plain_router = APIRouter()
"""In place of the page where it is turned off."""


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent."""

    content: bytes
    media_type: str
    etag: str


def read_files() -> Mapping[str, PageFile]:
    """The page's files by name: only these exist, so no path is ever made from what a client sends."""
    found = {}
    for file in files("service").joinpath("page").iterdir():
        ending = file.name[file.name.rfind(".") :]
        if ending in MEDIA_TYPES:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[file.name] = PageFile(content, f"{MEDIA_TYPES[ending]}; charset=utf-8", etag)
    return found


FILES = read_files()


@router.get("/", response_class=HTMLResponse)
async def playground(request: Request) -> Response:
    """The page."""
    return _send(START, request)


@router.get("/page/{name}", include_in_schema=False)
async def page_file(name: str, request: Request) -> Response:
    """One of its files."""
    return _send(name, request)


@plain_router.get("/")
async def index() -> Index:
    """Where to go."""
    return Index()


def _send(name: str, request: Request) -> Response:
    file = FILES.get(name)
    if file is None:
        raise HTTPException(404)
    headers = {**HEADERS, "etag": file.etag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
