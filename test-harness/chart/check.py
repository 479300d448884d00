"""Checks the Helm chart without a cluster: scripts/check-chart runs it.

What is rendered with each set of values in charts/berth/ci is valid for several versions of Kubernetes, and its parts fit each other; values
that are wrong are refused with their path; the table of the README is that of values.yaml; the examples are valid. UPDATE=1 writes
the table.
"""

import copy
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import helm_python
import jsonschema
import kubernetes_validate
import yaml

import envoygateway
import examples
import istio
import values_table
from render import CHART, notes, render, sets

# The oldest that the chart says, one between, and the newest that is known.
KUBERNETES = ["1.29", "1.33", "1.37"]
CRDS = yaml.safe_load((pathlib.Path(__file__).parent / "crds.yaml").read_text())

# Values that are wrong, over ci/redis-values.yaml, and what the refusal says.
WRONG = [
    ({"replica": 3}, "additional properties 'replica' not allowed"),
    ({"replicas": "three"}, "at '/replicas': got string, want integer"),
    ({"redis": {"url": "redis://:password@redis:6379"}}, "at '/redis/url'"),
    ({"redis": {"secret": {"nam": "x"}}}, "at '/redis/secret': additional properties 'nam' not allowed"),
    ({"settings": {"ttl": 30}}, "at '/settings/ttl': got number, want string"),
    ({"settings": {"logLevel": "trace"}}, "at '/settings/logLevel'"),
    ({"access": {"jwks": {"algorithms": ["none"]}}}, "at '/access/jwks/algorithms/0'"),
    ({"store": "etcd"}, "at '/store'"),
    ({"tls": {"clientCaSecret": "ca"}}, "tls.clientCaSecret needs tls.secret"),
    ({"store": "memory", "redis": {"url": ""}}, "store: memory needs replicas: 1"),
    ({"store": "valkey"}, "redis has values, and store is not redis"),
    ({"redis": {"url": ""}}, "redis.url or redis.secret.name is missing"),
    ({"access": {"jwks": {"secret": "keys"}}}, "access.jwks.algorithms is missing"),
    ({"access": {"jwks": {"secret": "keys", "algorithms": ["RS256"]}}}, "proxies show no JWT"),
    ({"networkPolicy": {"enabled": True}}, "networkPolicy.from is missing"),
    ({"autoscaling": {"enabled": True, "cpuPercent": 0}}, "autoscaling has no metric"),
    ({"istio": {"enabled": True}, "tls": {"secret": "x"}}, "istio.enabled and tls.secret"),
    ({"istio": {"enabled": True}}, "istio.principals is missing"),
    ({"istio": {"enabled": True}, "access": {"tokenSecret": {"name": "t"}}}, "access.tokenSecret needs istio.token"),
    ({"istio": {"token": "two words"}}, "at '/istio/token'"),
    ({"istio": {"requestTimeout": "1m"}}, "at '/istio/requestTimeout'"),
    ({"istio": {"sidecar": {"egress": ["shop"]}}}, "at '/istio/sidecar/egress/0'"),
    ({"istio": {"enabled": True}, "podLabels": {"app": "x"}}, "podLabels: the chart sets app itself"),
    ({"podLabels": {"helm.sh/chart": "x"}}, "podLabels: the chart sets helm.sh/chart itself"),
    ({"istio": {"enabled": True}, "serviceMonitor": {"scheme": "https"}}, "need istio.metricsMerging: false"),
    ({"istio": {"enabled": True}, "serviceMonitor": {"tlsConfig": {"serverName": "x"}}}, "need istio.metricsMerging: false"),
    ({"istio": {"enabled": True, "filter": {"sha256": "1" * 64}}}, "istio.filter.image is a placeholder"),
    ({"istio": {"enabled": True, "filter": {"image": "registry.example.org/filter:2"}}}, "istio.filter.sha256 is a placeholder"),
    ({"prometheusRule": {"matchers": "job=berth"}}, "at '/prometheusRule/matchers'"),
    ({"istio": {"nodes": {"port": "http"}}}, "at '/istio/nodes/port'"),
    ({"envoyGateway": {"enabled": True}, "istio": {"enabled": True}}, "istio.enabled and envoyGateway.enabled: only one of them"),
    ({"envoyGateway": {"enabled": True}, "tls": {"secret": "x"}}, "tls.secret: the proxies speak plain HTTP/1.1"),
    ({"envoyGateway": {"enabled": True}, "service": {"headless": {"enabled": False}}}, "needs service.headless.enabled"),
    ({"envoyGateway": {"enabled": True}, "access": {"tokenSecret": {"name": "t"}}}, "access.tokenSecret needs envoyGateway.token"),
    ({"envoyGateway": {"enabled": True}}, "envoyGateway.filter.image is a placeholder"),
    ({"envoyGateway": {"enabled": True, "filter": {"image": "registry.example.com/mine:1"}}}, "envoyGateway.filter.image is a placeholder"),
    ({"envoyGateway": {"enabled": True, "gateway": {"enabled": False}}}, "gateway.enabled: false needs envoyGateway.class.enabled: false"),
    ({"envoyGateway": {"enabled": True, "gateway": {"listeners": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}}}, "same port"),
    ({"envoyGateway": {"enabled": True, "gateway": {"listeners": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}}}, "same name"),
    ({"envoyGateway": {"enabled": True, "route": {"berthRule": 1, "restRule": 2}}}, "berthRule and restRule are for an HTTPRoute of your own"),
    ({"envoyGateway": {"enabled": True, "route": {"enabled": False, "berthRule": 1}}}, "berthRule and restRule are the same rule"),
    ({"envoyGateway": {"route": {"berthRule": -1}}}, "at '/envoyGateway/route/berthRule'"),
    ({"envoyGateway": {"enabled": True, "extensionPolicy": {"index": 1}}}, "extensionPolicy.namespace and index are for a policy of your own"),
    ({"envoyGateway": {"enabled": True, "extensionPolicy": {"namespace": "a"}}}, "extensionPolicy.namespace and index are for a policy of your own"),
    ({"envoyGateway": {"extensionPolicy": {"name": "A"}}}, "at '/envoyGateway/extensionPolicy/name'"),
    ({"envoyGateway": {"gateway": {"listeners": []}}}, "at '/envoyGateway/gateway/listeners'"),
    ({"envoyGateway": {"gateway": {"listeners": [{"name": "a"}]}}}, "missing property 'port'"),
    ({"envoyGateway": {"nameScheme": "v3"}}, "at '/envoyGateway/nameScheme'"),
    ({"envoyGateway": {"requestTimeout": "1.5s"}}, "at '/envoyGateway/requestTimeout'"),
    ({"envoyGateway": {"filter": {"image": "oci://x/y"}}}, "at '/envoyGateway/filter/image'"),
    ({"envoyGateway": {"route": {"namespace": "a/b"}}}, "at '/envoyGateway/route/namespace'"),
    ({"autoscaling": {"minReplicas": 9}}, "autoscaling.minReplicas is above maxReplicas"),
]


def main():
    faults = []
    tested = sets()
    for name, values in tested.items():
        faults += [f"{name}: {fault}" for fault in lint(values)]
        documents = render(values)
        for document in (document for document in documents if not for_envoy(document)):
            faults += [f"{name}: {label(document)}: {fault}" for fault in validate(document)]
        faults += [f"{name}: {fault}" for fault in fit(documents)]
        faults += [f"{name}: {fault}" for fault in headless(values, documents)]
    faults += refuses(tested["redis"])
    faults += notices(render(tested["everything"]))
    faults += rules(tested)
    faults += values_table.check(CHART, update=bool(os.environ.get("UPDATE")))
    faults += notes_say(tested)
    faults += istio.check(tested["istio"], tested["istio-own"])
    faults += envoygateway.check(tested["gateway"], tested["gateway-own"])
    faults += examples.check(CHART, validate)
    for fault in faults:
        print(f"check-chart: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(f"check-chart: {len(tested)} sets of values are valid for Kubernetes {', '.join(KUBERNETES)}")


def notes_say(tested):
    """The notes name what a person has to do, and not what is done."""
    said = {name: notes(values) for name, values in tested.items()}
    alerts = merged(tested["redis"], {"prometheusRule": {"enabled": True}})
    said["alerts"], said["matchers"] = notes(alerts), notes(merged(alerts, {"prometheusRule": {"matchers": 'job="berth"'}}))
    for word, where in {
        "OPEN:": {"redis", "tls", "alerts", "matchers", "gateway-own"},
        "STORE:": {"valkey", "tls", "istio-own", "gateway-own"},
        "ALERTS:": {"alerts"},
        "ROUTES:": {"istio-own", "gateway-own"},
        "GATEWAY:": {"gateway-own"},
        "ENVOYPROXY:": {"gateway-own"},
        "HEADERS:": {"gateway-own"},
        "EXTENSION:": {"gateway-own"},
        "spec.infrastructure.parametersRef, outranks the class's": {"gateway-own"},
        "a ListenerSet, because it replaces the Gateway's": {"gateway-own"},
        "filters inside backendRefs": {"gateway-own"},
        "envoyGateway.match": set(),
        "enableEnvoyPatchPolicy": {"gateway", "gateway-own"},
        "berth-pods.sessions.svc.cluster.local, port 8650": said.keys() - {"istio", "istio-own", "gateway", "gateway-own", "valkey"},
        "all others get 403": {"istio", "istio-own"},
    }.items():
        if (found := {name for name, text in said.items() if word in text}) != where:
            yield f"NOTES.txt: {word!r} is said with {sorted(found)}, not {sorted(where)}"


def lint(values):
    report = helm_python.lint(CHART, values, strict=True)
    # 1 is a remark, such as that there is no icon.
    return [f"helm lint: {each['path']}: {each['error']}" for each in report["messages"] if each["severity"] > 1]


def for_envoy(document):
    """Whether it is for Istio or Envoy Gateway, whose schemas are not here."""
    return istio.is_ours(document) or envoygateway.is_ours(document)


def label(document):
    return f"{document.get('kind')} {document.get('metadata', {}).get('name')}"


def validate(document):
    """What is wrong with a document by itself."""
    kind = document.get("kind")
    if kind in CRDS:
        return [f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(CRDS[kind]).iter_errors(document)]
    faults = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            faults.append(f"Kubernetes {version}: {error}")
    return faults


def fit(documents):
    """What one document says of another one, and what all of them must have."""
    faults = []
    pods = [document["spec"]["template"] for document in documents if document["kind"] in ("Deployment", "StatefulSet")]
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    full_names = [(document["kind"], document["metadata"].get("namespace", ""), document["metadata"]["name"]) for document in documents]
    faults += [f"{' '.join(name)} is there twice" for name in set(full_names) if full_names.count(name) > 1]
    for document in documents:
        if for_envoy(document):
            continue
        say = lambda fault, where=label(document): faults.append(f"{where}: {fault}")
        for key in ("name", "instance", "component", "version", "part-of", "managed-by"):
            if f"app.kubernetes.io/{key}" not in document["metadata"].get("labels", {}):
                say(f"the label app.kubernetes.io/{key} is missing")
        for selector in selectors(document):
            chosen = [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]
            if len(chosen) != 1:
                say(f"selects {len(chosen)} kinds of pods by {selector}")
        spec = document.get("spec", {})
        if document["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if (target["kind"], target["name"]) not in names:
                say("scales what is not there")
        if document["kind"] == "ServiceMonitor":
            selector = spec["selector"]["matchLabels"].items()
            found = [other for other in documents if other["kind"] == "Service" and selector <= other["metadata"]["labels"].items()]
            if len(found) != 1:
                say(f"reads the pods through {len(found)} Services")
        if document["kind"] == "Service":
            [pod] = [pod for pod in pods if spec["selector"].items() <= pod["metadata"]["labels"].items()]
            ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
            for port in spec["ports"]:
                if port["targetPort"] not in ports:
                    say(f"the pods have no port {port['targetPort']}")
    for pod in pods:
        faults += [f"pod {pod['metadata']['labels']['app.kubernetes.io/component']}: {fault}" for fault in restricted(pod["spec"])]
    return faults


def headless(values, documents):
    """Envoy resolves one name into all pods, at their own port; in a mesh there is no such Service."""
    wanted = values.get("service", {}).get("headless", {}).get("enabled", True) and not values.get("istio", {}).get("enabled")
    services = [document for document in documents if document["kind"] == "Service"]
    found = [document for document in services if document["spec"].get("clusterIP") == "None"]
    if [document["metadata"]["name"] for document in found] != ["berth-pods"] * wanted:
        yield f"the headless Services are {[document['metadata']['name'] for document in found]}"
    [deployment] = [document for document in documents if document["kind"] == "Deployment"]
    listens = deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
    for document in found:
        if [port["port"] for port in document["spec"]["ports"]] != [listens]:
            yield f"the headless Service has the ports {document['spec']['ports']}, and the pods listen on {listens}"
        if document["spec"].get("publishNotReadyAddresses"):
            yield "the headless Service names pods that are not ready"


def selectors(document):
    spec = document.get("spec", {})
    if document["kind"] == "Service":
        yield spec["selector"]
    if document["kind"] == "NetworkPolicy":
        yield spec["podSelector"]["matchLabels"]
    if document["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
        yield spec["selector"]["matchLabels"]
    for constraint in spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", []):
        yield constraint["labelSelector"]["matchLabels"]


def restricted(spec):
    """The restricted profile of Kubernetes' Pod Security Standards, with a read-only root, and mounts that are there."""
    if spec.get("automountServiceAccountToken") is not False:
        yield "mounts a token of its service account"
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "is not runAsNonRoot with the seccomp profile RuntimeDefault"
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for container in spec["containers"] + spec.get("initContainers", []):
        if container.get("securityContext") != {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }:
            yield f"{container['name']} is not restricted"
        if not container.get("resources", {}).get("limits", {}).get("memory"):
            yield f"{container['name']} has no limit of memory"
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        if not mounted <= volumes:
            yield f"{container['name']} mounts {mounted - volumes}, which is no volume"


def rules(tested):
    """Prometheus itself accepts the alerts, where its promtool is at hand."""
    if not (promtool := shutil.which("promtool")):
        print("check-chart: promtool is not installed, so the expressions of alerts are not parsed", file=sys.stderr)
        return
    for name, values in tested.items():
        for document in (document for document in render(values) if document["kind"] == "PrometheusRule"):
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump({"groups": document["spec"]["groups"]}, file)
                file.flush()
                run = subprocess.run([promtool, "check", "rules", file.name], capture_output=True, text=True)
            if run.returncode:
                yield f"{name}: promtool: {run.stdout}{run.stderr}"


def refuses(base):
    """Each wrong value is refused, with its place."""
    for wrong, says in WRONG:
        try:
            render(merged(base, wrong))
            yield f"{wrong} is accepted"
        except (helm_python.HelmValuesError, helm_python.HelmRenderError) as error:
            if says not in str(error):
                yield f"{wrong}: {says!r} is not in {error}"


def notices(documents):
    """These checks can fail: a field that is misspelt anywhere in the output is found."""
    for index, document in enumerate(documents):
        spec = next((key for key in ("spec", "automountServiceAccountToken") if key in document), None)
        for path in (["metadata"], [spec]):
            wrong = copy.deepcopy(document)
            if path != ["metadata"] or document["kind"] not in CRDS:
                wrong[path[0] + "x"] = wrong.pop(path[0])
                if not validate(wrong):
                    yield f"{label(document)} with {path[0]}x is accepted"
    [deployment] = [document for document in documents if document["kind"] == "Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readinesProbe"] = container.pop("readinessProbe")
    if not validate(deployment):
        yield "a Deployment with readinesProbe is accepted"


def merged(base, over):
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {key: merged(base.get(key), over[key]) if key in over else base[key] for key in base | over}


if __name__ == "__main__":
    main()
