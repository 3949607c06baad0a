"""What is generated from the metrics' declarations is up to date, and names only what the processes export."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tools.metric_pages import ALERTS, PAGES, ROOT, prometheus_names

WORDS = {"sum", "by", "rate", "max_over_time", "histogram_quantile", "and", "le", "h", "m"}
LABELS = {"source", "task", "verifier", "service"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_page_is_the_one_that_the_declarations_give(path: Path) -> None:
    assert path.read_text() == PAGES[path](), "run: python -m tools.metric_pages"


def exported(expression: str) -> bool:
    """Whether an expression reads only metrics that are declared, by the names they are exported under."""
    known = set()
    for name in prometheus_names().values():
        known |= {name, f"{name}_total", f"{name}_bucket"}
    return set(re.findall(r"[a-z_][a-z0-9_]+", expression)) <= known | WORDS | LABELS


def test_every_panel_reads_a_declared_metric() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "triune.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] == "timeseries"]
    assert len(panels) == len(prometheus_names())
    assert all(exported(target["expr"]) for panel in panels for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_alert_reads_a_declared_metric() -> None:
    (group,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [alert.name for alert in ALERTS]
    for rule in group["rules"]:
        assert exported(rule["expr"]), rule["expr"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
