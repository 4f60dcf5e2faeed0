"""deploy/kubernetes, rendered: valid by Kubernetes' own schemas, and true to the code that it deploys."""

import re
import shutil
import subprocess

import pytest
import yaml

pytest.importorskip("kubernetes_validate", reason="pip install -e .[dev]")
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from kubernetes_validate import validate

from deploy.kubernetes.make_prometheus_rule import OUT, RULES, main, prometheus_rule
from probes.serving_state import FILE, ProbeReference, ServingState, write_state
from service.admission.access import ROUTES
from service.observe.metrics import Metrics
from service.probe_roles.switch import START_PATIENCE
from service.server import FLUSH_SECONDS
from service.settings import SettingsError, read_settings
from tests.kubernetes import FOLDER, environment_of, one, pod_of, render, write_overlay

CRDS = {
    "ServiceMonitor": prometheus_operator.ServiceMonitor,
    "PrometheusRule": prometheus_operator.PrometheusRule,
    "ScaledObject": keda.ScaledObject,
}
SECRETS = {"hguard-keys/admin-key-sha256": "a" * 64, "hguard-feedback/url": "postgresql://hguard:x@db/hguard"}
ENGINE_END_SECONDS = 5


@pytest.fixture(scope="module", params=["cpu", "gpu", "cpu by HPA with shared probes", "gpu by KEDA"])
def objects(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("kustomize") / "overlay"
    folders = {
        "cpu": lambda: FOLDER / "overlays" / "cpu",
        "gpu": lambda: FOLDER / "overlays" / "gpu",
        "cpu by HPA with shared probes": lambda: write_overlay(place, "cpu", "autoscale-hpa", "shared-probes"),
        "gpu by KEDA": lambda: write_overlay(place, "gpu", "autoscale-keda"),
    }
    return render(folders[request.param]())


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Settings of an environment and nothing else."""

    def settings_of(environment):
        monkeypatch.chdir(tmp_path)
        for name in environment:
            monkeypatch.setenv(name, environment[name])
        monkeypatch.delenv("HGUARD_FEEDBACK_URL", raising=False) if "HGUARD_FEEDBACK_URL" not in environment else None
        return read_settings()

    return settings_of


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_every_object_is_valid_to_the_letter(objects, version):
    for found in objects:
        if found["kind"] not in CRDS:
            validate(found, version, strict=True)


def test_hazard_an_operator_ignores_a_misspelt_field(objects):
    """What the operator's types do not know gets lost on the way through them."""
    for found in objects:
        if found["kind"] in CRDS:
            known = CRDS[found["kind"]].model_validate(found)
            assert known.model_dump(mode="json", by_alias=True, exclude_unset=True) == found


def test_hazard_a_setting_is_misspelt_or_the_service_refuses_its_value(objects, read):
    for secrets in (SECRETS, {}):
        environment = environment_of(objects, secrets)
        settings = read(environment)
        assert {name for name in environment if not name.startswith("HGUARD_")} <= {"OMP_NUM_THREADS"}
        (container,) = pod_of(objects)["containers"]
        assert settings.port == container["ports"][0]["containerPort"]
        assert not settings.is_loopback
        assert not settings.insecure


def test_hazard_service_links_are_taken_for_settings(objects, read):
    links = {"HGUARD_PORT": "tcp://10.0.0.1:8000", "HGUARD_SERVICE_HOST": "10.0.0.1"}
    with pytest.raises(SettingsError):
        read(environment_of(objects, SECRETS) | links)
    assert pod_of(objects)["enableServiceLinks"] is False


def test_files_lie_where_the_settings_say_and_what_is_written_can_be(objects, read, tmp_path):
    pod = pod_of(objects)
    (container,) = pod["containers"]
    settings = read(environment_of(objects, SECRETS))
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    keys = volumes[mounts[str(settings.api_keys_file.parent)]["name"]]["secret"]
    assert keys["items"] == [{"key": settings.api_keys_file.name, "path": settings.api_keys_file.name}]
    written = {place for place, mount in mounts.items() if not mount.get("readOnly")}
    assert {"/var/lib/hguard", "/var/cache/hguard", "/tmp"} <= written
    # An empty volume hides the image's folders: the service finds nothing but the mounts, and writes all the same.
    assert any(settings.probes_dir.is_relative_to(place) for place in written)
    for place in written:
        (tmp_path / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
    probes = tmp_path / str(settings.probes_dir).lstrip("/")
    write_state(probes, ServingState("default", ProbeReference("fake", "0", "a")))
    assert (probes / FILE).is_file()


def test_hazard_a_probe_asks_what_the_service_does_not_answer(objects):
    (container,) = pod_of(objects)["containers"]
    ports = {port["name"] for port in container["ports"]}
    for name, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = container[name]["httpGet"]
        assert asked == {"path": path, "port": "http"}
        assert ROUTES[f"GET {path}"] == "public"
        assert asked["port"] in ports


def test_hazard_a_pod_is_killed_before_it_has_started_or_drained(objects, read):
    pod, settings = pod_of(objects), read(environment_of(objects, SECRETS))
    (container,) = pod["containers"]
    start = container["startupProbe"]
    assert start["httpGet"]["path"] == "/livez"  # however long the model loads
    assert start["periodSeconds"] * start["failureThreshold"] >= 300
    trace = START_PATIENCE * settings.canary_timeout_s
    assert one(objects, "Deployment")["spec"]["progressDeadlineSeconds"] >= trace + 600
    (program, waits) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    needed = int(waits) + settings.drain_s + FLUSH_SECONDS + ENGINE_END_SECONDS
    assert pod["terminationGracePeriodSeconds"] > needed


def test_the_pod_is_restricted(objects):
    """What the namespace's label asks for, and a root file system that is read."""
    pod = pod_of(objects)
    (container,) = pod["containers"]
    whole, own = pod["securityContext"], container["securityContext"]
    assert whole["runAsNonRoot"]
    assert whole["runAsUser"] == whole["fsGroup"] == 10001
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert own["readOnlyRootFilesystem"]
    assert own["allowPrivilegeEscalation"] is False
    assert pod["automountServiceAccountToken"] is False
    assert one(objects, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"secret", "emptyDir", "persistentVolumeClaim"}


def test_the_user_is_that_of_the_image(objects):
    image = FOLDER.parents[1] / "Dockerfile"
    if not image.exists():
        pytest.skip("there is no Dockerfile yet")
    user = pod_of(objects)["securityContext"]["runAsUser"]
    assert re.search(rf"^USER {user}\b", image.read_text(), re.MULTILINE)


def test_hazard_a_selector_selects_nothing_or_too_much(objects):
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    services = [found for found in objects if found["kind"] == "Service"]
    for selector in (
        *(service["spec"]["selector"] for service in services),
        one(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod_of(objects)["topologySpreadConstraints"]),
    ):
        assert selector.items() <= labels.items()
    monitor = one(objects, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    (scraped,) = [service for service in services if wanted <= service["metadata"]["labels"].items()]
    assert scraped["metadata"]["name"] == "hguard"  # becomes the job, which the alerts name
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in scraped["spec"]["ports"]}
    assert ROUTES[f"GET {endpoint['path']}"] == "metrics"
    assert {service["metadata"]["name"]: service["spec"].get("sessionAffinity") for service in services} == {
        "hguard": None,
        "hguard-litellm": "ClientIP",
    }


def test_an_autoscaler_owns_the_number_and_asks_for_a_metric_that_there_is(objects):
    names = {metric.name for metric in Metrics().registry.collect()}
    scalers = [found for found in objects if found["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
    deployment = one(objects, "Deployment")["spec"]
    if not scalers:
        assert deployment["replicas"] == 2
        return
    assert "replicas" not in deployment
    (scaler,) = scalers
    assert scaler["spec"]["scaleTargetRef"]["name"] == "hguard"
    if scaler["kind"] == "ScaledObject":
        (trigger,) = scaler["spec"]["triggers"]
        (name,) = re.findall(r"hguard_\w+", trigger["metadata"]["query"])
        behaviour = scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    else:
        (metric,) = scaler["spec"]["metrics"]
        name, behaviour = metric["pods"]["metric"]["name"], scaler["spec"]["behavior"]
    assert name in names
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] > behaviour["scaleUp"]["stabilizationWindowSeconds"]


def promtool(folder, rules):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian's prometheus)")
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    checked = subprocess.run(
        [program, "check", "rules", "rules.yml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_the_adapter_and_keda_ask_is_promql(tmp_path):
    (rule,) = yaml.safe_load((FOLDER / "components/autoscale-hpa/adapter-values.yaml").read_text())["rules"]["custom"]
    filled = {"Series": "hguard_requests_waiting", "LabelMatchers": 'namespace="hguard",pod=~"a|b"', "GroupBy": "pod"}
    query = re.sub(r"<<\.(\w+)>>", lambda found: filled[found[1]], rule["metricsQuery"])
    scaled = yaml.safe_load((FOLDER / "components/autoscale-keda/scaledobject.yaml").read_text())
    asked = [rule["seriesQuery"], query, scaled["spec"]["triggers"][0]["metadata"]["query"]]
    records = [{"record": f"asked:{at}", "expr": expression} for at, expression in enumerate(asked)]
    promtool(tmp_path, {"groups": [{"name": "asked", "rules": records}]})


def test_the_prometheus_rule_has_the_rules_that_prometheus_reads(objects, tmp_path):
    spec = one(objects, "PrometheusRule")["spec"]
    promtool(tmp_path, spec)
    if not RULES.is_dir():
        pytest.skip("there are no rule files yet")
    assert OUT.read_text() == prometheus_rule(RULES), "python deploy/kubernetes/make_prometheus_rule.py"


def test_the_generator_keeps_every_group_and_refuses_two_of_one_name(tmp_path):
    rules = {"one": "sum(hguard_requests_waiting) > 3", "two": 'up{job="hguard"} == 0'}
    for name, expression in rules.items():
        alert = {"alert": name, "expr": expression, "annotations": {"summary": "{{ $labels.instance }} é"}}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump({"groups": [{"name": name, "rules": [alert]}]}))
    out = tmp_path / "rule.yaml"
    assert main(["--rules", str(tmp_path), "--out", str(out)]) == 0
    made = yaml.safe_load(out.read_text())
    validated = prometheus_operator.PrometheusRule.model_validate(made)
    assert [group.rules[0].expr for group in validated.spec.groups] == list(rules.values())
    (tmp_path / "three.yml").write_text((tmp_path / "one.yml").read_text())
    with pytest.raises(ValueError, match="two groups of one name"):
        prometheus_rule(tmp_path)
    with pytest.raises(ValueError, match="has no rules"):
        prometheus_rule(tmp_path / "nowhere")
