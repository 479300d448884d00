"""Renders the chart. As a program it prints the documents of each set of values in charts/berth/ci, as JSON by the sets' names.

    PYTHONPATH=target/chart python3 test-harness/chart/render.py
"""

import json
import pathlib

import helm_python
import yaml

CHART = pathlib.Path(__file__).parents[2] / "charts/berth"
RELEASE = {"name": "berth", "namespace": "sessions"}


def render(values, **release):
    """The documents of all templates, each a dictionary, by the order of their files."""
    texts = [text for path, text in sorted(files(values, **release).items()) if not path.endswith(".txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def notes(values):
    """What `helm install` prints."""
    [text] = [text for path, text in files(values).items() if path.endswith("/NOTES.txt")]
    return text


def files(values, **release):
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(values, **RELEASE | release)


def sets():
    """The sets of values that are tested, by their names."""
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    return {file.name.removesuffix("-values.yaml"): yaml.safe_load(file.read_text()) for file in files}


if __name__ == "__main__":
    print(json.dumps({name: render(values) for name, values in sets().items()}))
