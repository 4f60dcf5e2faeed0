"""Make components/monitoring/prometheusrule.yaml of the rule files of deploy/prometheus/rules.

    python deploy/kubernetes/make_prometheus_rule.py

One source for both: Prometheus reads the files as they are, its operator reads them inside a PrometheusRule.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

HERE = Path(__file__).parent
RULES = HERE.parent / "prometheus" / "rules"
OUT = HERE / "components" / "monitoring" / "prometheusrule.yaml"
HEAD = "# Made by deploy/kubernetes/make_prometheus_rule.py of deploy/prometheus/rules: change those.\n"


def prometheus_rule(folder: Path) -> str:
    """The manifest, as YAML.

    Args:
        folder: Has the rule files, `*.yml`.

    Raises:
        ValueError: It has none, or two groups have one name.
    """
    files = sorted(folder.glob("*.yml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    names = [group["name"] for group in groups]
    if not groups or len(set(names)) < len(names):
        raise ValueError(f"{folder} has no rules, or two groups of one name: {sorted(names)}")
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "hguard", "namespace": "hguard"},
        "spec": {"groups": groups},
    }
    return HEAD + yaml.safe_dump(manifest, sort_keys=False, width=120, allow_unicode=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=Path, default=RULES, help="folder of rule files")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    options.out.write_text(prometheus_rule(options.rules))
    return 0


if __name__ == "__main__":
    sys.exit(main())
