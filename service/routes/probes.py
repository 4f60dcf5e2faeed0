"""GET /probes and the operator's switches: reload, activate (also as shadow or canary), rollback."""

from collections.abc import Awaitable
from typing import Annotated

from fastapi import APIRouter, Path

from probes.registry import ProbeNotFoundError
from service.probe_roles.listing import list_entries
from service.probe_roles.slot import ProbeRefusedError
from service.probe_roles.switch import Switched
from service.routes.dependencies import CurrentLifecycle
from service.routes.responses import ADMIN_ERRORS
from service.schemas.probes import ActivateRequest, FolderName, ProbeList, RollbackRequest, SwitchResponse
from service.schemas.report import ProbeLabel
from service.schemas.role import Role
from service.web.errors import ApiError

router = APIRouter()


ProbeName = Annotated[FolderName, Path()]


@router.get("/probes")
async def list_probes(lifecycle: CurrentLifecycle) -> ProbeList:
    """Every probe with its state and what evaluation found, ready or not; the folders as they were last looked at."""
    return ProbeList(probes=list_entries(lifecycle.probes.places, lifecycle.probes.shelf))


@router.post("/probes/reload", responses=ADMIN_ERRORS)
async def reload(lifecycle: CurrentLifecycle) -> ProbeList:
    """Look at the folders again; what is served stays."""
    await lifecycle.probes.reload()
    return ProbeList(probes=list_entries(lifecycle.probes.places, lifecycle.probes.shelf))


@router.post("/probes/{name}/activate", responses=ADMIN_ERRORS)
async def activate(name: ProbeName, lifecycle: CurrentLifecycle, body: ActivateRequest | None = None) -> SwitchResponse:
    """Load and prove a probe, then give it its role; running requests keep the one that they began with."""
    asked = body or ActivateRequest()
    work = lifecycle.probes.activate(name, asked.version, asked.mode, asked.percent or 0.0)
    return await _switch(work, asked.mode, asked.percent)


@router.post("/probes/{name}/rollback", responses=ADMIN_ERRORS)
async def rollback(name: ProbeName, lifecycle: CurrentLifecycle, body: RollbackRequest | None = None) -> SwitchResponse:
    """Serve what was active before this probe, proved again; or end it as shadow or canary."""
    mode = (body or RollbackRequest()).mode
    return await _switch(lifecycle.probes.rollback(name, mode), mode)


async def _switch(work: Awaitable[Switched], mode: Role, percent: float | None = None) -> SwitchResponse:
    try:
        done = await work
    except ProbeNotFoundError:
        raise ApiError(404, "probe_not_found", "no such probe: GET /probes lists those that there are") from None
    except ProbeRefusedError as refusal:
        raise ApiError(409, "probe_refused", f"{refusal}; what was served before still is") from None
    probe = done.artifact.probe
    label = ProbeLabel(name=probe.name, version=probe.version, sha256=done.artifact.sha256)
    return SwitchResponse(probe=label, mode=mode, percent=percent, is_kept=done.is_kept)
