"""POST /probes/activate: request and response."""

from typing import Annotated

from pydantic import StringConstraints

from service.schemas.report import ProbeLabel
from service.schemas.strict import Sent, Strict

FolderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class ActivateRequest(Strict):
    """A probe as `GET /probes` lists it."""

    name: FolderName
    version: FolderName


class ActivateResponse(Sent):
    """The probe that is served now."""

    probe: ProbeLabel
