"""Envoy Gateway's documents of the chart are the shipped ones, which the harness runs: the same with the samples' names, and no sample's
name is left with others. What one of them says of another is there."""

import itertools
import pathlib
import re

import helm_python
import yaml

from render import notes, render

SHIPPED = pathlib.Path(__file__).parents[2] / "envoy/gateway"
# The state service's name. The chart's headless Service is called after the release, with -pods.
STATE = "berth-state.berth.svc.cluster.local"
# An image for the values of the check; the chart refuses that of the sample.
IMAGE = "registry.example.org/filter:1"
# What the samples call things. With other names none of it is left.
SAMPLES = ["games", "public", "nodes/", "name: nodes", "name: http\n", "8080", "port: 80\n", "tcp-80\n", "/healthz", "envoy-gateway-system"]
SAMPLES += ["berth-state", "berth/filter", "x-session-id", "sid", "requestReceivedTimeout: 30s", "gatewayClassName: berth"]
# What the user may have already: the switch, what is not rendered without it, and the word in the notes.
SWITCHES = {
    "class": ({"GatewayClass", "EnvoyProxy"}, "ENVOYPROXY"),
    "gateway": ({"Gateway"}, "GATEWAY"),
    "clientTrafficPolicy": ({"ClientTrafficPolicy"}, "HEADERS"),
    "route": ({"HTTPRoute"}, "ROUTES"),
    "extensionPolicy": ({"EnvoyExtensionPolicy"}, "EXTENSION"),
}


def is_ours(document):
    """Whether the chart takes it from there."""
    return document["apiVersion"].split("/")[0] in ("gateway.networking.k8s.io", "gateway.envoyproxy.io")


def check(other_values, own_values):
    """What differs, and what does not fit."""
    for scheme in ("v1", "v2"):
        yield from (f"envoy gateway, {scheme}: {fault}" for fault in as_shipped(scheme))
        others = changed(other_values, nameScheme=scheme)
        yield from (f"envoy gateway, {scheme}: {fault}" for fault in fit(others))
        yield from (f"envoy gateway, {scheme}: {fault}" for fault in no_sample(others))
    yield from (f"envoy gateway: {fault}" for fault in settings(other_values))
    yield from (f"envoy gateway: {fault}" for fault in names_do_not_chain(other_values))
    yield from (f"envoy gateway: {fault}" for fault in own(own_values))
    yield from (f"envoy gateway: {fault}" for fault in rules(own_values))
    yield from (f"envoy gateway: {fault}" for fault in extension(own_values))


def as_shipped(scheme):
    """One source: with the samples' names the documents are the files."""
    files = ("gateway", "route", "filter", f"patches-{scheme}")
    shipped = [document for file in files for document in yaml.safe_load_all((SHIPPED / f"{file}.yaml").read_text())]
    [proxy] = [document for document in shipped if document["kind"] == "EnvoyProxy"]
    if STATE not in proxy["spec"]["bootstrap"]["value"]:
        yield f"the sample's state service is not {STATE}"
    proxy["spec"]["bootstrap"]["value"] = proxy["spec"]["bootstrap"]["value"].replace(STATE, "berth-pods.sessions.svc.cluster.local")
    [wasm] = one(shipped, "EnvoyExtensionPolicy")["spec"]["wasm"]
    wasm["code"]["image"]["url"] = IMAGE
    [rest] = [document for document in shipped if document["metadata"]["name"] == "rest"]
    # A user may well have a policy called `rest`.
    rest["metadata"]["name"] = "berth-rest"
    expected = by_name(shipped)
    settings = {"enabled": True, "nameScheme": scheme, "filter": {"image": IMAGE}}
    found = by_name(render({"redis": {"url": "redis://redis:6379"}, "envoyGateway": settings}))
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            yield f"{' '.join(key)} is not as in envoy/gateway"


def no_sample(values):
    documents = by_name(render(values))
    expected = {
        ("GatewayClass", "", "edge-class"),
        ("EnvoyProxy", "eg", "edge-class"),
        ("Gateway", "edge", "front"),
        ("ClientTrafficPolicy", "edge", "berth"),
        ("HTTPRoute", "chat", "talk"),
        ("BackendTrafficPolicy", "chat", "berth"),
        ("BackendTrafficPolicy", "chat", "berth-rest"),
        ("EnvoyExtensionPolicy", "edge", "berth"),
        ("EnvoyPatchPolicy", "edge", "berth"),
    }
    if documents.keys() != expected:
        yield f"these differ from what they should be called: {sorted(documents.keys() ^ expected)}"
    # The pool's name is Berth's own, as those of policies.
    documents["EnvoyExtensionPolicy", "edge", "berth"]["spec"]["wasm"][0]["config"]["pools"][0].pop("name")
    for key, document in documents.items():
        text = yaml.safe_dump(document, width=10000)
        yield from (f"{' '.join(key)} still says {sample!r}" for sample in SAMPLES if sample in text)


def fit(values):
    """What one document says of another one."""
    documents = render(values)
    named = by_name(documents)
    settings = values["envoyGateway"]
    of = lambda kind: one(documents, kind)
    gateway, route, proxy = of("Gateway"), of("HTTPRoute"), of("EnvoyProxy")
    gateway_place, route_place = ((document["metadata"]["namespace"], document["metadata"]["name"]) for document in (gateway, route))

    reference = of("GatewayClass")["spec"]["parametersRef"]
    if (reference["kind"], reference["namespace"], reference["name"]) not in named:
        yield f"the GatewayClass names {reference}"
    if gateway["spec"]["gatewayClassName"] != of("GatewayClass")["metadata"]["name"]:
        yield "the Gateway is of another class"
    [parent] = route["spec"]["parentRefs"]
    if (parent.get("namespace", route_place[0]), parent["name"]) != gateway_place:
        yield f"the HTTPRoute's Gateway is {parent}"
    for listener in gateway["spec"]["listeners"]:
        admits = listener.get("allowedRoutes", {}).get("namespaces", {"from": "Same"})
        admitted = gateway_place[0] if admits["from"] == "Same" else admits["selector"]["matchLabels"]["kubernetes.io/metadata.name"]
        if admitted != route_place[0]:
            yield f"the listener {listener['name']} admits routes of {admitted}"

    rules = [rule["name"] for rule in route["spec"]["rules"]]
    for (kind, namespace, name), document in named.items():
        spec = document["spec"]
        for target in spec.get("targetRefs", [spec["targetRef"]] if "targetRef" in spec else []):
            if (target["kind"], namespace, target["name"]) not in named or target.get("sectionName", rules[0]) not in rules:
                yield f"{kind} {namespace} {name} is for {target}, which is not there"

    extension = of("EnvoyExtensionPolicy")
    [wasm] = extension["spec"]["wasm"]
    [pool] = wasm["config"]["pools"]
    if (pool["cluster"], pool["match"]["clusters"]) != (clusters(*route_place)[1], clusters(*route_place)):
        yield f"the pool is of {pool['cluster']} and matches {pool['match']}, and the HTTPRoute is {'/'.join(route_place)}"
    if route["spec"]["rules"][0]["matches"][0].get("headers", [{}])[0].get("name") != "x-berth-destination":
        yield "the HTTPRoute's first rule is not the one for x-berth-destination"

    listeners = [
        f"tcp-{listener['port']}" if settings.get("nameScheme") == "v2" else f"{'/'.join(gateway_place)}/{listener['name']}"
        for listener in gateway["spec"]["listeners"]
    ]
    patches = of("EnvoyPatchPolicy")["spec"]["jsonPatches"]
    found = [(patch["name"], patch["operation"]["path"]) for patch in patches]
    if found != [(name, path) for name in listeners for path in ("/failure_policy", "/capability_restriction_config")]:
        yield f"the patches are for {found}"
    filter = f"envoyextensionpolicy/{extension['metadata']['namespace']}/{extension['metadata']['name']}/wasm/0"
    for path in {patch["operation"]["jsonPath"] for patch in patches}:
        if re.findall(r"@\.name=='([^']*)'", path) != [f"envoy.filters.http.wasm/{filter}"]:
            yield f"the patches look for {path}, and the filter is {filter}"

    [cluster] = yaml.safe_load(proxy["spec"]["bootstrap"]["value"])["static_resources"]["clusters"]
    if wasm["config"]["state"]["cluster"] != cluster["name"]:
        yield f"the filter's state cluster is {wasm['config']['state']}, and the bootstrap's {cluster['name']}"
    [place] = cluster["load_assignment"]["endpoints"]
    address = place["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    [pods] = [document for document in documents if document["kind"] == "Service" and document["spec"].get("clusterIP") == "None"]
    name = f"{pods['metadata']['name']}.{pods['metadata']['namespace']}.svc.cluster.local"
    if (address["address"], address["port_value"]) != (name, pods["spec"]["ports"][0]["port"]):
        yield f"the state cluster's address is {address}, and the headless Service {name}"


def settings(values):
    """What the values say beside names is in its place."""
    said = values["envoyGateway"]
    documents = render(values)
    [wasm] = one(documents, "EnvoyExtensionPolicy")["spec"]["wasm"]
    if wasm["code"]["image"] != {"url": said["filter"]["image"], "pullSecretRef": {"name": said["filter"]["pullSecret"]}}:
        yield f"the filter's image is {wasm['code']['image']}"
    [pool] = wasm["config"]["pools"]
    if (wasm["config"]["state"].get("token"), pool["session"], pool["match"]) != (
        said["token"],
        said["session"],
        {"clusters": clusters("chat", "talk")} | said["match"],
    ):
        yield f"the filter's configuration is {wasm['config']}"
    route = one(documents, "HTTPRoute")["spec"]
    backends = [rule["backendRefs"] for rule in route["rules"]]
    if route.get("hostnames") != ["chat.example.org"] or backends != [[{"name": "rooms", "port": 9090}]] * 2:
        yield f"the HTTPRoute is {route}"
    listeners = one(documents, "Gateway")["spec"]["listeners"]
    found = [(listener["port"], listener["protocol"], listener.get("tls", {}).get("certificateRefs")) for listener in listeners]
    if found != [(8000, "HTTP", None), (8443, "HTTPS", [{"kind": "Secret", "name": "chat-tls"}])]:
        yield f"the listeners are {listeners}"
    if (timeout := one(documents, "ClientTrafficPolicy")["spec"]["timeout"]) != {"http": {"requestReceivedTimeout": "1h"}}:
        yield f"the timeout is {timeout}"
    policies = {document["metadata"]["name"]: document["spec"] for document in documents if document["kind"] == "BackendTrafficPolicy"}
    if any(policy["healthCheck"]["active"]["http"]["path"] != "/alive" for policy in policies.values()):
        yield "the health checks have another path"
    if policies["berth"]["loadBalancer"]["consistentHash"].get("header") != {"name": "x-berth-hash-key"}:
        yield "the rule `berth` hashes something else than the filter's key"
    for sources, expected in (
        (said["session"]["sources"], {"type": "Cookie", "cookie": {"name": "room"}}),
        ([{"header": "x-a"}, {"cookie": "b"}], {"type": "Header", "header": {"name": "x-a"}}),
        ([{"query": "a"}], {"type": "Header", "header": {"name": "x-berth-hash-key"}}),
    ):
        documents = by_name(render(changed(values, session={"sources": sources})))
        rest = documents.get(("BackendTrafficPolicy", "chat", "berth-rest"), {"spec": {"loadBalancer": {"consistentHash": "nothing"}}})
        if (hash := rest["spec"]["loadBalancer"]["consistentHash"]) != expected:
            yield f"with the sources {sources} the rule `rest` hashes {hash}"


def names_do_not_chain(values):
    """A value that is also a sample's name stays what it is."""
    said = values["envoyGateway"]
    mixes = (("berth", "games", "public", 80), ("games", "berth", "nodes", 8080), ("public", "public", "berth-state", 8650))
    for gateway, route, name, port in mixes:
        mixed = changed(
            values,
            namespace="games",
            nameScheme="v1",
            gateway=said["gateway"] | {"namespace": gateway, "name": "nodes"},
            route=said["route"] | {"namespace": route, "name": name},
            nodes=said["nodes"] | {"service": "public", "port": port},
            **{"class": {"name": "games"}},
        )
        yield from (f"with mixed names: {fault}" for fault in fit(mixed))
        documents = by_name(render(mixed))
        if not {("Gateway", gateway, "nodes"), ("HTTPRoute", route, name), ("EnvoyProxy", "games", "games")} <= documents.keys():
            yield f"names are mixed up: {sorted(documents)}"
        elif documents["HTTPRoute", route, name]["spec"]["rules"][1]["backendRefs"] != [{"name": "public", "port": port}]:
            yield "the nodes' Service is mixed up"


def own(values):
    """What is the user's is not rendered, and the notes have it as the chart would: any of it, in every combination."""
    everything = with_switches(values, dict.fromkeys(SWITCHES, True))
    yield from fit(everything)
    full = by_name(render(everything))
    of = lambda kind: one(full.values(), kind)["spec"]
    policy = {key: value for key, value in of("ClientTrafficPolicy").items() if key != "targetRefs"}
    if "timeout" in policy:
        yield "requestTimeout: 0s leaves a timeout"
    texts = {"ENVOYPROXY": of("EnvoyProxy"), "HEADERS": policy, "ROUTES": of("HTTPRoute")["rules"], "EXTENSION": of("EnvoyExtensionPolicy")["wasm"]}
    for choice in itertools.product((True, False), repeat=len(SWITCHES)):
        switches = dict(zip(SWITCHES, choice))
        theirs = [SWITCHES[key] for key, on in switches.items() if not on]
        where = f"without {[key for key, on in switches.items() if not on]}"
        said = with_switches(values, switches)
        if switches["class"] and not switches["gateway"]:
            if not refused(said):
                yield f"{where} there is a class for no Gateway"
            continue
        expected = {key: document for key, document in full.items() if not any(key[0] in kinds for kinds, _ in theirs)}
        if by_name(render(said)) != expected:
            yield f"{where} the documents differ from those of the chart with everything"
        text = notes(said)
        if (words := {word for _, word in SWITCHES.values() if f"{word}: " in text}) != {word for _, word in theirs}:
            yield f"{where} NOTES.txt has the parts {sorted(words)}"
        for word in words & texts.keys():
            # The first lines that are indented.
            printed = re.search(rf"^{word}: .*?\n\n((?:    [^\n]*\n|\n)*)", text, re.M | re.S)
            if not printed or yaml.safe_load(printed.group(1)) != texts[word]:
                yield f"{where} NOTES.txt: {word} is not what the chart renders"


def refused(values):
    try:
        render(values)
    except helm_python.HelmRenderError as error:
        return "envoyGateway.gateway.enabled: false needs envoyGateway.class.enabled: false" in str(error)


def with_switches(values, switches):
    return changed(values, **{key: values["envoyGateway"].get(key, {}) | {"enabled": on} for key, on in switches.items()})


def extension(values):
    """The patches find the filter in the user's own policy, and the notes do not show the token."""
    for over, path in (
        ({}, "edge/berth/wasm/0"),
        ({"name": "mine", "index": 2}, "edge/mine/wasm/2"),
        ({"namespace": "chat", "name": "games"}, "chat/games/wasm/0"),
    ):
        said = changed(values, extensionPolicy={"enabled": False} | over, token="the-proxies-token")
        for patch in one(render(said), "EnvoyPatchPolicy")["spec"]["jsonPatches"]:
            if f"@.name=='envoy.filters.http.wasm/envoyextensionpolicy/{path}'" not in patch["operation"]["jsonPath"]:
                yield f"with the policy {over} the patches look for {patch['operation']['jsonPath']}"
        if "the-proxies-token" in notes(said) or "token: CHANGE" not in notes(said):
            yield "NOTES.txt: the wasm entry does not leave the token's place open"


def rules(values):
    """The filter finds the two rules of the user's HTTPRoute, whichever they are, and the notes say which."""
    for berth, rest in ((0, 1), (2, 5), (1, 0)):
        said = changed(values, extensionPolicy={"enabled": True}, route=values["envoyGateway"]["route"] | {"berthRule": berth, "restRule": rest})
        [pool] = one(render(said), "EnvoyExtensionPolicy")["spec"]["wasm"][0]["config"]["pools"]
        expected = clusters("chat", "talk", berth, rest)
        if (pool["cluster"], pool["match"]["clusters"]) != (expected[1], expected):
            yield f"with the rules {berth} and {rest} the pool is of {pool['cluster']} and matches {pool['match']}"
        if f"`berth` has to be rule {berth} and `rest` rule {rest}," not in notes(said):
            yield f"NOTES.txt: it does not say that the rules are {berth} and {rest}"


def clusters(namespace, name, berth=0, rest=1):
    """What Envoy Gateway calls the clusters of an HTTPRoute's two rules, in the order of the pool's match."""
    return [f"httproute/{namespace}/{name}/rule/{index}" for index in (rest, berth)]


def changed(values, **over):
    return values | {"envoyGateway": values["envoyGateway"] | over}


def one(documents, kind):
    [document] = [document for document in documents if document["kind"] == kind]
    return document


def by_name(documents):
    named = lambda document: (document["kind"], document["metadata"].get("namespace", ""), document["metadata"]["name"])
    return {named(document): document for document in documents if is_ours(document)}
