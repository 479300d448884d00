"""The chart's examples: valid, and their pods leave as they should."""

import re

import yaml


def check(chart, validate):
    """What is wrong with them."""
    for name in ("deployment.yaml", "statefulset.yaml"):
        documents = list(yaml.safe_load_all((chart / "examples" / name).read_text()))
        for document in documents:
            yield from (f"examples/{name}: {fault}" for fault in validate(document))
        [workload] = [document for document in documents if document["kind"] in ("Deployment", "StatefulSet")]
        yield from (f"examples/{name}: {fault}" for fault in leaves(workload["spec"]["template"]["spec"]))
        account = workload["spec"]["template"]["spec"].get("serviceAccountName")
        if account not in [document["metadata"]["name"] for document in documents if document["kind"] == "ServiceAccount"]:
            yield f"examples/{name}: its service account {account} is not in the file"
        if f"cluster.local/ns/games/sa/{account}" not in (chart / "README.md").read_text():
            yield f"examples/{name}: README.md does not say to name {account} in istio.principals"
        if workload["kind"] == "StatefulSet" and not any(
            document["kind"] == "Service" and document["metadata"]["name"] == workload["spec"]["serviceName"]
            for document in documents
        ):
            yield f"examples/{name}: its serviceName is no Service of the file"
    values = yaml.safe_load((chart / "values.yaml").read_text())
    adapter = yaml.safe_load((chart / "examples/prometheus-adapter.yaml").read_text())
    metric = values["autoscaling"]["sessionsCreated"]["metric"]
    if [rule["name"]["as"] for rule in adapter["rules"]["custom"]] != [metric]:
        yield f"examples/prometheus-adapter.yaml does not make {metric}"


def leaves(spec):
    """The hooks find their program, their token and their node's name, and there is time for them."""
    [init], [container] = spec["initContainers"], spec["containers"]
    if init["args"] != ["install", init["volumeMounts"][0]["mountPath"]]:
        yield "the init container does not install into its volume"
    volumes = {volume["name"] for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    if not set(mounts.values()) <= volumes or mounts.get("/berth") != init["volumeMounts"][0]["name"]:
        yield "the containers do not share the volume with berth"
    for hook, verb in (("postStart", "join"), ("preStop", "leave")):
        if container["lifecycle"][hook]["exec"]["command"][:2] != ["/berth/berth", verb]:
            yield f"{hook} does not run berth {verb}"
    env = {variable["name"]: variable for variable in container["env"]}
    if env["POD_IP"].get("valueFrom") != {"fieldRef": {"fieldPath": "status.podIP"}}:
        yield "POD_IP is not the pod's"
    if env["PORT"]["value"] != str(container["ports"][0]["containerPort"]):
        yield "PORT is not the container's"
    if mounts.get(env["BERTH_TOKEN_FILE"]["value"].rpartition("/")[0]) != "berth-token":
        yield "the file of the token is in no volume"
    deadline = int(re.fullmatch(r"(\d+)s", env["BERTH_DEADLINE"]["value"]).group(1))
    if spec["terminationGracePeriodSeconds"] < deadline + 10:
        yield "the grace period leaves the application no ten seconds after the deadline"
