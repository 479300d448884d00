"""The table of values in the chart's README, made of values.yaml and its comments."""

import re

BEGIN, END = "<!-- values: made by UPDATE=1 scripts/check-chart -->\n", "<!-- end of values -->\n"


def check(chart, update):
    """What is wrong with the table; with `update` it is written."""
    readme = chart / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    right = before + BEGIN + table((chart / "values.yaml").read_text()) + END + after
    if update:
        readme.write_text(right)
    elif text != right:
        return ["README.md: the table is not that of values.yaml: UPDATE=1 scripts/check-chart writes it"]
    return []


def table(values):
    """A row for each value, and for each section that has a comment. A comment belongs to the line below it."""
    rows, parents, comment = ["| value | default | |", "|---|---|---|"], [], []
    for line in values.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        text = line.strip()
        if not text:
            comment = []
        elif text.startswith("#"):
            comment.append(text.lstrip("# "))
        else:
            key, default = re.fullmatch(r"([A-Za-z0-9]+):\s*(.*)", text).groups()
            parents = parents[:depth] + [key]
            path, says = ".".join(parents), " ".join(comment).replace("|", "\\|")
            if default:
                rows.append(f"| `{path}` | `{default}` | {says} |")
            elif says:
                rows.append(f"| **`{path}`** | | {says} |")
            comment = []
    return "\n".join(rows) + "\n"
