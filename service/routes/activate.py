"""POST /probes/activate: serve another probe; for the operator."""

from fastapi import APIRouter

from probes.registry import ProbeNotFoundError
from service.errors import ApiError
from service.lifecycle import ProbeRefusedError
from service.routes.dependencies import CurrentLifecycle
from service.routes.responses import ADMIN_ERRORS
from service.schemas.activate import ActivateRequest, ActivateResponse
from service.schemas.report import ProbeLabel

router = APIRouter()


@router.post("/probes/activate", responses=ADMIN_ERRORS)
async def activate(body: ActivateRequest, lifecycle: CurrentLifecycle) -> ActivateResponse:
    """Load and prove a probe, then serve it; running requests keep the one that they began with."""
    try:
        artifact = await lifecycle.activate(body.name, body.version)
    except ProbeNotFoundError:
        raise ApiError(404, "probe_not_found", "no such probe: GET /probes lists those that there are") from None
    except ProbeRefusedError as refusal:
        raise ApiError(409, "probe_refused", f"{refusal}; the probe that was served before still is") from None
    probe = artifact.probe
    return ActivateResponse(probe=ProbeLabel(name=probe.name, version=probe.version, sha256=artifact.sha256))
