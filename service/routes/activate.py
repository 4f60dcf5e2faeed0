"""POST /probes/activate: serve another probe; for the operator, who shows a key."""

import hashlib
import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from probes.registry import ProbeNotFoundError
from service.errors import ApiError
from service.lifecycle import ProbeRefusedError
from service.routes.dependencies import CurrentLifecycle
from service.routes.responses import ADMIN_ERRORS
from service.schemas.activate import ActivateRequest, ActivateResponse
from service.schemas.report import ProbeLabel

router = APIRouter()


def check_admin(request: Request, lifecycle: CurrentLifecycle) -> None:
    """Let only the holder of the key in.

    Raises:
        ApiError: 403 where no key is set; 401 where another one is shown, or none.
    """
    wanted = lifecycle.settings.admin_key_sha256
    if wanted is None:
        message = "no admin key is set: put the SHA-256 of one, in hex, into HGUARD_ADMIN_KEY_SHA256 and restart"
        raise ApiError(403, "no_admin_key", message)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    found = hashlib.sha256(key.strip().encode("latin-1")).hexdigest()
    if scheme.lower() != "bearer" or not hmac.compare_digest(found, wanted.lower()):
        raise ApiError(401, "wrong_admin_key", "send the admin key as Authorization: Bearer")


@router.post("/probes/activate", responses=ADMIN_ERRORS)
async def activate(
    body: ActivateRequest, lifecycle: CurrentLifecycle, _: Annotated[None, Depends(check_admin)]
) -> ActivateResponse:
    """Load and prove a probe, then serve it; running requests keep the one that they began with."""
    try:
        artifact = await lifecycle.activate(body.name, body.version)
    except ProbeNotFoundError:
        raise ApiError(404, "probe_not_found", "no such probe: GET /probes lists those that there are") from None
    except ProbeRefusedError as refusal:
        raise ApiError(409, "probe_refused", f"{refusal}; the probe that was served before still is") from None
    probe = artifact.probe
    return ActivateResponse(probe=ProbeLabel(name=probe.name, version=probe.version, sha256=artifact.sha256))
