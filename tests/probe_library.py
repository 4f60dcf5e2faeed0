"""A folder with several probes of one model, and how an operator switches between them."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from probes.artifact import ProbeArtifact, save_artifact
from service.choices import shadow

KEY = "an admin key"
SETTINGS: dict[str, Any] = {"admin_key_sha256": hashlib.sha256(KEY.encode()).hexdigest()}
HEADERS = {"authorization": f"Bearer {KEY}"}


def turned(artifact: ProbeArtifact, version: str) -> ProbeArtifact:
    """The probe whose weights have the other sign: what it finds follows from what the first one finds."""
    residual = artifact.probe.residual
    if residual is not None:
        residual = replace(residual, weights=-residual.weights)
    probe = replace(artifact.probe, version=version, weights=-artifact.probe.weights, residual=residual)
    golden = replace(artifact.golden, scores=tuple(-scores for scores in artifact.golden.scores))
    return replace(artifact, probe=probe, golden=golden)


def write_library(folder: Path, *artifacts: ProbeArtifact) -> Path:
    for artifact in artifacts:
        save_artifact(folder / artifact.probe.name / artifact.probe.version, artifact, "card")
    return folder


async def activate(
    client: httpx.AsyncClient, probe: Any, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    """`probe` is anything with a name and a version."""
    body = {"version": probe.version, **body}
    path = f"/probes/{probe.name}/activate"
    return await client.post(path, json=body, headers=HEADERS if headers is None else headers)


async def rollback(client: httpx.AsyncClient, name: str, **body: Any) -> httpx.Response:
    return await client.post(f"/probes/{name}/rollback", json=body, headers=HEADERS)


async def list_probes(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    """Version -> entry of `GET /probes`, without the shipped probe."""
    entries = (await client.get("/probes")).json()["probes"]
    return {entry["version"]: entry for entry in entries if entry["name"] in ("fake", "tiny")}


async def list_states(client: httpx.AsyncClient) -> dict[str, str]:
    """Version -> state."""
    return {version: entry["state"] for version, entry in (await list_probes(client)).items()}


async def read_metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """Every sample of `GET /metrics` by its name and labels, once the shadow has judged what was answered."""
    while shadow._running:
        await asyncio.sleep(0.002)
    lines = (await client.get("/metrics")).text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}
