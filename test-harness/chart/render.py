"""Prints what the chart renders with one of its sets of values, as a JSON list of documents.

    PYTHONPATH=target/chart python3 test-harness/chart/render.py charts/berth/ci/tls-values.yaml
"""

import json
import pathlib
import sys

import helm_python
import yaml

CHART = pathlib.Path(__file__).parents[2] / "charts/berth"
RELEASE = {"name": "berth", "namespace": "sessions"}


def render(values, chart=CHART):
    """The documents of all templates, each a dictionary, by the order of their files."""
    with helm_python.Chart.load(chart) as loaded:
        files = loaded.render(values, **RELEASE)
    texts = [text for path, text in sorted(files.items()) if not path.endswith(".txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


if __name__ == "__main__":
    print(json.dumps(render(yaml.safe_load(pathlib.Path(sys.argv[1]).read_text()))))
