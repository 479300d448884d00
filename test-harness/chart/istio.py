"""Istio's documents of the chart are the shipped ones, which the harness runs: the same with default names, and no sample's name is left
with others."""

import json
import pathlib

import yaml

from render import render

SHIPPED = pathlib.Path(__file__).parents[2] / "envoy/istio"
FILES = ["base/nodes", "base/plugin", "base/state"] + [
    f"{place}/{file}" for place in ("gateway", "sidecar") for file in ("routes", "patches", "metrics")
]
# What the samples call things. With other names none of it is left.
SAMPLES = ["games.svc", "games/", "games.example.com", "ns/games", "istio-ingress", "istio-system", "ingressgateway", "8080"]
SAMPLES += ["berth-state", "outbound|8650|", "app: client", "berth/*", "berth-filter", "x-session-id", "00000000"]


def is_ours(document):
    """Whether the chart takes it from there. The nodes' Service is the user's; that of the state service, and its NetworkPolicy,
    the chart has in its own form."""
    return "istio.io/" in document["apiVersion"] or document["kind"] == "ConfigMap"


def check(other_values):
    """What differs."""
    values = {"redis": {"url": "redis://redis:6379"}, "istio": {"enabled": True, "sidecar": {"enabled": True}}}
    found = by_name(render(values, name="berth-state", namespace="berth"))
    shipped = [yaml.safe_load_all((SHIPPED / f"{file}.yaml").read_text()) for file in FILES]
    expected = by_name(document for file in shipped for document in file)
    for key in expected.keys() | found.keys():
        if expected.get(key) != found.get(key):
            yield f"istio: {' '.join(key)} is not as in envoy/istio"

    others = by_name(render(other_values))
    if len(others) != len(expected):
        yield f"istio: {len(others)} documents instead of {len(expected)}"
    for key, document in others.items():
        text = yaml.safe_dump(document, width=10000)
        yield from (f"istio: {' '.join(key)} still says {sample}" for sample in SAMPLES if sample in text)
        if document["metadata"]["namespace"] not in ("chat", "edge", "mesh", "sessions"):
            yield f"istio: {' '.join(key)} is in the sample's namespace"
    yield from session(others, other_values["istio"]["session"])


def session(documents, session):
    """The filter and Envoy's own ring read the ids that the values name."""
    plugin = documents["EnvoyFilter", "mesh", "berth-plugin"]["spec"]["configPatches"][0]["patch"]["value"]
    [pool] = json.loads(plugin["typed_config"]["config"]["configuration"]["value"])["pools"]
    if pool["session"] != session:
        yield f"istio: the filter's session is {pool['session']}"
    expected = [
        {"header": {"header_name": "x-berth-hash-key"}, "terminal": True},
        {"header": {"header_name": "x-room"}, "terminal": True},
        {"cookie": {"name": "room"}, "terminal": True},
        {"query_parameter": {"name": "room"}, "terminal": True},
    ]
    for namespace in ("edge", "chat"):
        patch = documents["EnvoyFilter", namespace, "berth-lb"]["spec"]["configPatches"][0]["patch"]["value"]
        policy = patch["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"]
        ring = policy["fallback_policy"]["policies"][0]["typed_extension_config"]["typed_config"]
        if ring["consistent_hashing_lb_config"]["hash_policy"] != expected:
            yield f"istio: the ring's hash policy in {namespace} is {ring['consistent_hashing_lb_config']}"


def by_name(documents):
    named = lambda document: (document["kind"], document["metadata"]["namespace"], document["metadata"]["name"])
    return {named(document): document for document in documents if is_ours(document)}
