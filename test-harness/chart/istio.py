"""Istio's documents of the chart are the shipped ones, which the harness runs: the same with default names, and no sample's name is left
with others."""

import json
import pathlib
import re

import yaml

from render import notes, render

SHIPPED = pathlib.Path(__file__).parents[2] / "envoy/istio"
FILES = ["base/nodes", "base/plugin", "base/state"] + [
    f"{place}/{file}" for place in ("gateway", "sidecar") for file in ("routes", "patches", "metrics")
]
IMAGE = {"image": "registry.example.org/filter:1", "sha256": "2" * 64}
# What the samples call things. With other names none of it is left.
SAMPLES = ["games.svc", "games/", "games.example.com", "ns/games", "istio-ingress", "istio-system", "ingressgateway", "8080"]
SAMPLES += ["berth-state", "outbound|8650|", "app: client", "berth/*", "berth-filter", "x-session-id", "00000000", "_timeout: 30s"]


def is_ours(document):
    """Whether the chart takes it from there. The nodes' Service is the user's; that of the state service, and its NetworkPolicy,
    the chart has in its own form."""
    return "istio.io/" in document["apiVersion"] or document["kind"] == "ConfigMap"


def check(other_values, own_values):
    """What differs."""
    shipped = [yaml.safe_load_all((SHIPPED / f"{file}.yaml").read_text()) for file in FILES]
    expected = by_name(document for file in shipped for document in file)
    # The chart refuses the samples' image and digest.
    [filter] = [document for document in expected.values() if document["metadata"]["name"] == "berth-plugin"]
    remote = filter["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]["config"]["vm_config"]["code"]["remote"]
    remote["http_uri"]["uri"], remote["sha256"] = f"oci://{IMAGE['image']}", IMAGE["sha256"]
    # What has no default, because the sample's would be wrong for all others.
    [policy] = [document for document in expected.values() if document["kind"] == "AuthorizationPolicy"]
    [sidecar] = [document for document in expected.values() if document["kind"] == "Sidecar"]
    principals = policy["spec"]["rules"][0]["from"][0]["source"]["principals"]
    [egress] = sidecar["spec"]["egress"]
    settings = {"enabled": True, "filter": IMAGE, "principals": principals, "sidecar": {"enabled": True, "egress": egress["hosts"]}}
    base = {"redis": {"url": "redis://redis:6379"}, "istio": settings}
    found = by_name(render(base, name="berth-state", namespace="berth"))
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
    yield from token(others, other_values["istio"]["token"])
    yield from limits(others)
    yield from names_do_not_chain(other_values)
    yield from own_routes(own_values)
    yield from shared_namespace(own_values)
    yield from metrics(render(other_values), render(own_values))
    yield from istiod(other_values)


def session(documents, session):
    """The filter and Envoy's own ring read the ids that the values name."""
    [pool] = plugin(documents)["pools"]
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


def token(documents, token):
    """The filter shows the token that the service asks for."""
    state = plugin(documents)["state"]
    if state.get("token") != token or not state["cluster"].startswith("outbound|"):
        yield f"istio: the filter's state is {state}"


def limits(documents):
    """The Sidecar lets clients reach what the values name, and what Berth needs; the timeout is theirs."""
    [sidecar] = [document for document in documents.values() if document["kind"] == "Sidecar"]
    if sidecar["spec"]["egress"] != [{"hosts": ["./*", "sessions/*", "shop/*"]}]:
        yield f"istio: the Sidecar's egress is {sidecar['spec']['egress']}"
    if (found := timeouts(documents)) != ["3600s", "3600s"]:
        yield f"istio: request_timeout is {found}"


def names_do_not_chain(values):
    """A value that is also a sample's name stays what it is."""
    for nodes, state in ((8650, 9650), (9090, 8080), (8650, 8080), (8080, 8080)):
        values = changed(values, service={"port": state})
        values = changed(values, istio=changed(values["istio"], nodes=changed(values["istio"]["nodes"], port=nodes)))
        expected = {
            f"outbound|{nodes}||rooms.chat.svc.cluster.local",
            f"outbound|{nodes}|berth|rooms.chat.svc.cluster.local",
            f"outbound|{state}||berth.sessions.svc.cluster.local",
        }
        text = json.dumps(list(by_name(render(values)).values()))
        if (found := set(re.findall(r"outbound\|[^\"\\]+", text))) != expected:
            yield f"istio: with the ports {nodes} and {state} the clusters are {sorted(found)}"
    istio = changed(values["istio"], nodes={"service": "rooms", "namespace": "berth", "port": 80})
    istio["gateway"] = changed(istio["gateway"], namespace="games")
    documents = by_name(render(changed(values, istio=istio)))
    if not {("VirtualService", "berth", "nodes-at-gateway"), ("Gateway", "games", "games")} <= documents.keys():
        yield f"istio: names of namespaces are mixed up: {sorted(documents)}"


def own_routes(values):
    """Where the routes are the user's, the notes have them as the chart would."""
    kinds = {document["kind"] for document in render(values)}
    if left := kinds & {"Gateway", "VirtualService", "Sidecar"}:
        yield f"istio: there is {left}, which is the user's"
    printed = [yaml.safe_load(part.split(":\n\n", 1)[1]) for part in routes(notes(values))]
    istio = values["istio"]
    enabled = {place: changed(istio[place], routes={"enabled": True}) for place in ("gateway", "sidecar")}
    documents = render(changed(values, istio=istio | enabled))
    expected = [document["spec"]["http"] for document in documents if document["kind"] == "VirtualService"]
    if printed != expected or len(expected) != 2:
        yield f"istio: the notes have the routes {printed}"
    if "ROUTES" in notes(changed(values, istio=istio | enabled)):
        yield "istio: the notes have routes that the chart renders"


def routes(text):
    return [part for part in re.split(r"\n\n(?=[A-Z])", text) if part.startswith("ROUTES")]


def shared_namespace(values):
    """A gateway in the clients' namespace has EnvoyFilters of its own."""
    documents = by_name(render(values))
    for name, labels in (("", {"istio": "ingressgateway"}), ("-sidecar", {"app": "client"})):
        for kind in ("lb", "http"):
            found = documents.get(("EnvoyFilter", "games", f"berth-{kind}{name}"), {}).get("spec", {}).get("workloadSelector")
            if found != {"labels": labels}:
                yield f"istio: berth-{kind}{name} selects {found}"
    if timeouts(documents):
        yield "istio: requestTimeout: 0s leaves a timeout"
    maps = [yaml.safe_load((SHIPPED / f"{place}/metrics.yaml").read_text())["data"] for place in ("gateway", "sidecar")]
    if maps[0] != maps[1]:
        yield "istio: the ConfigMaps of gateway and sidecar differ, and the chart takes one for both"


def metrics(merged, own):
    """Prometheus reads them from Istio's agent, which finds them by the annotations; or with a certificate of its own."""
    annotations = one(merged, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    expected = {"prometheus.io/scrape": "true", "prometheus.io/port": "8650", "prometheus.io/path": "/metrics"}
    if annotations != expected | {"example.com/note": "yes"}:
        yield f"istio: the pods' annotations are {annotations}"
    [endpoint] = one(merged, "ServiceMonitor")["spec"]["endpoints"]
    [address] = endpoint.get("relabelings", [{}])
    # As Prometheus does it: the expression has to match all of the value.
    moved = re.sub(f"^(?:{address.get('regex')})$", r"\g<1>:15020", "10.0.0.1:8650")
    if endpoint["path"] != "/stats/prometheus" or moved != "10.0.0.1:15020" or address.get("replacement") != "$1:15020":
        yield f"istio: the ServiceMonitor reads {endpoint}"
    policy = one(merged, "NetworkPolicy")["spec"]
    admits = {(rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
              for rule in policy["ingress"] for port in rule["ports"]}
    if admits != {("edge", 8650), ("edge", 15008), ("monitoring", 15020)}:
        yield f"istio: the NetworkPolicy admits {sorted(admits)}"
    if "annotations" in one(own, "Deployment")["spec"]["template"]["metadata"]:
        yield "istio: annotations for merging without metricsMerging"
    [endpoint] = one(own, "ServiceMonitor")["spec"]["endpoints"]
    if (endpoint.get("scheme"), endpoint["path"], endpoint.get("relabelings")) != ("https", "/metrics", None):
        yield f"istio: without metricsMerging the ServiceMonitor reads {endpoint}"
    ports = {(len(rule["from"]), port["port"]) for rule in one(own, "NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    if ports != {(2, 8650), (2, 15008)}:
        yield f"istio: without metricsMerging the NetworkPolicy admits {sorted(ports)}"


def istiod(values):
    """The sidecar may call it where it runs: in the root namespace unless it is somewhere else."""
    for over, namespace in (({"istiodNamespace": ""}, "mesh"), ({"istiodNamespace": "istiod"}, "istiod")):
        egress = one(render(changed(values, istio=changed(values["istio"], **over))), "NetworkPolicy")["spec"]["egress"]
        found = [rule["to"] for rule in egress if rule["ports"] == [{"protocol": "TCP", "port": 15012}]]
        if found != [[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]]:
            yield f"istio: with istiod in {namespace} the NetworkPolicy admits {found}"


def plugin(documents):
    """The filter's configuration."""
    [filter] = [document for document in documents.values() if document["metadata"]["name"] == "berth-plugin"]
    config = filter["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]["config"]
    return json.loads(config["configuration"]["value"])


def timeouts(documents):
    filters = [document for key, document in documents.items() if key[2].startswith("berth-http")]
    values = [patch["patch"]["value"].get("typed_config", {}) for filter in filters for patch in filter["spec"]["configPatches"]]
    return [value["request_timeout"] for value in values if "request_timeout" in value]


def changed(values, **over):
    return values | over


def one(documents, kind):
    [document] = [document for document in documents if document["kind"] == kind]
    return document


def by_name(documents):
    named = lambda document: (document["kind"], document["metadata"]["namespace"], document["metadata"]["name"])
    return {named(document): document for document in documents if is_ours(document)}
