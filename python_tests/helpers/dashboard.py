"""The dashboard of `docker/`: its queries and the metrics in them."""

import json
import re
from pathlib import Path

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "eft.json"
WITH_DRAFTS = "vllm:spec_decode_"  # there with speculation only
PANELS = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
METRICS = sorted({name for query in QUERIES for name in re.findall(r"\b(?:vllm:|http_)\w+", query)})
