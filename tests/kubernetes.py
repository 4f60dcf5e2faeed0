"""The manifests of deploy/kubernetes as kustomize renders them."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"


@cache
def render(folder: Path) -> tuple[dict[str, Any], ...]:
    """Every object of a kustomization; skips without a kubectl that knows components."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    version = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Kustomize Version: v(\d+)", version)
    if found is None or int(found[1]) < 5:
        pytest.skip("kubectl is older than 1.27: its kustomize is not v5")
    made = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "deprecated" not in made.stderr, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def write_overlay(folder: Path, overlay: str, *components: str) -> Path:
    """A kustomization that adds components to an overlay, as its comments tell an operator to."""
    folder.mkdir()
    places = {"resources": [f"overlays/{overlay}"], "components": [f"components/{name}" for name in components]}
    written = {kind: [os.path.relpath(FOLDER / name, folder) for name in names] for kind, names in places.items()}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(written))
    return folder


def one(objects: tuple[dict[str, Any], ...], kind: str, name: str | None = None) -> dict[str, Any]:
    """The only object of a kind, or of that and a name."""
    found = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} {kind} {name}"
    return found[0]


def pod_of(objects: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The pod's specification."""
    return one(objects, "Deployment")["spec"]["template"]["spec"]


def environment_of(objects: tuple[dict[str, Any], ...], secrets: dict[str, str]) -> dict[str, str]:
    """What the container's process gets of the manifests; `secrets` has the values of `secret/key`."""
    (container,) = pod_of(objects)["containers"]
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container["env"]:
        reference = variable["valueFrom"]["secretKeyRef"]
        key = f"{reference['name']}/{reference['key']}"
        if key in secrets:
            found[variable["name"]] = secrets[key]
        else:
            assert reference["optional"]
    return found
