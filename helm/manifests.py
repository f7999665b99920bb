"""Validates the rendered chart, and checks it against the promises of docs/OPERATIONS.md.

python manifests.py --split DIRECTORY RENDERED.yaml ...

Resources of KEDA, the Prometheus operator and NACK are validated here. All others are written to DIRECTORY, one a file,
for kubernetes-validate. What is wrong is told of with the file and the name of the manifest; exit code 1 then.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import jsonschema
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

HERE = Path(__file__).parent
MODELS = {
    "keda.sh/v1alpha1": keda,
    "monitoring.coreos.com/v1": prometheus,
}
NACK = json.loads((HERE / "schemas/nack.json").read_text())
STREAMS = HERE / "carebell/streams"
# In MiB, as files/rules.yaml has it.
MEMORY_ALERT = 512

problems = []


def unknown(given, known, path=""):
    """The first given key that a model dropped: models accept unknown keys silently."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key not in known:
                return f"{path}.{key}"
            found = unknown(value, known[key], f"{path}.{key}")
            if found:
                return found
    if isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known)):
            found = unknown(one, other, f"{path}[{index}]")
            if found:
                return found
    return None


def validate_custom(manifest):
    """The error in a custom resource, or None."""
    if manifest["apiVersion"] in MODELS:
        model = getattr(MODELS[manifest["apiVersion"]], manifest["kind"])
        try:
            read = model.model_validate(manifest)
        except ValueError as error:
            return str(error)
        key = unknown(manifest, json.loads(read.model_dump_json(by_alias=True, exclude_unset=True)))
        return key and f"unknown key {key}"
    try:
        jsonschema.validate(manifest, NACK)
    except jsonschema.ValidationError as error:
        return f"{error.json_path}: {error.message}"
    return None


def seconds(duration):
    return int(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


class Release:
    """Everything that one set of values renders."""

    def __init__(self, name, manifests):
        self.name = name
        self.manifests = manifests

    def of(self, *kinds):
        return [manifest for manifest in self.manifests if manifest["kind"] in kinds]

    def promise(self, holds, manifest, what):
        if not holds:
            problems.append(f"{self.name}: {manifest['kind']} {manifest['metadata']['name']}: {what}")

    def check(self):
        names = [(m["kind"], m["metadata"]["name"]) for m in self.manifests]
        for twice in {name for name in names if names.count(name) > 1}:
            problems.append(f"{self.name}: {twice} is there twice")
        for manifest in self.of("Deployment", "Job", "Pod"):
            self.check_pod(manifest)
        deployments = {m["metadata"]["name"]: m for m in self.of("Deployment")}
        for deployment in deployments.values():
            self.check_deployment(deployment)
        for scaler in self.of("HorizontalPodAutoscaler", "ScaledObject"):
            target = deployments.get(scaler["spec"]["scaleTargetRef"]["name"])
            self.promise(target and "replicas" not in target["spec"], scaler, "its Deployment has `replicas`, or is not there")
        for scaled in self.of("ScaledObject"):
            self.check_triggers(scaled)
        for policy in self.of("NetworkPolicy"):
            rules = [rule.get("from") for rule in policy["spec"].get("ingress", [])]
            rules += [rule.get("to") for rule in policy["spec"]["egress"]]
            self.promise(all(rules), policy, "a rule names nobody, and so lets everybody through")
            ports = [rule.get("ports") for rule in policy["spec"].get("ingress", []) + policy["spec"]["egress"]]
            self.promise(all(ports), policy, "a rule opens all ports")
        self.check_gateway(deployments)
        self.check_console(deployments)
        self.check_hooks()
        self.check_streams()
        self.check_rules()
        duties = {part for m in deployments.values() for part in self.duties(m)}
        if duties != {"pipeline", "scheduler", "dead-letters"}:
            problems.append(f"{self.name}: nobody does {sorted({'pipeline', 'scheduler', 'dead-letters'} - duties)}")

    @staticmethod
    def duties(deployment):
        args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        if args in (["admin"], ["gateway"]):
            return []
        return ["pipeline", "scheduler", "dead-letters"] if args == ["run"] else args[2].split(",")

    @staticmethod
    def pod(manifest):
        return manifest["spec"] if manifest["kind"] == "Pod" else manifest["spec"]["template"]["spec"]

    def check_pod(self, manifest):
        pod = self.pod(manifest)
        security = pod["securityContext"]
        self.promise(security.get("runAsNonRoot") is True, manifest, "may run as root")
        self.promise(security.get("seccompProfile") == {"type": "RuntimeDefault"}, manifest, "has no seccomp profile")
        self.promise(pod["automountServiceAccountToken"] is False, manifest, "gets a token of Kubernetes")
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        used = set()
        for container in pod.get("initContainers", []) + pod["containers"]:
            context = container["securityContext"]
            hardened = context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            self.promise(hardened, manifest, "is not hardened")
            self.promise("memory" in container["resources"]["limits"], manifest, "has no limit of memory")
            self.promise("command" not in container, manifest, "replaces the entrypoint")
            self.promise(all("value" in e or "valueFrom" in e for e in container["env"]), manifest, "has a variable without a value")
            names = [e["name"] for e in container["env"]]
            # Helm uses server-side apply, which refuses lists with two entries of one name.
            self.promise(len(names) == len(set(names)), manifest, "has a variable twice")
            url = next(e for e in container["env"] if e["name"] == "DATABASE_URL")
            self.promise("valueFrom" in url, manifest, "has DATABASE_URL in the open")
            used |= {mount["name"] for mount in container.get("volumeMounts", [])}
            for variable in container["env"]:
                path = variable.get("value", "")
                if path.startswith("/etc/carebell/"):
                    there = any(f"{path}/".startswith(mount["mountPath"] + "/") for mount in container["volumeMounts"])
                    self.promise(there, manifest, f"{variable['name']} names a file that is not mounted")
        self.promise(volumes == used, manifest, f"volumes {sorted(volumes)}, mounts {sorted(used)}")

    def check_deployment(self, deployment):
        pod = self.pod(deployment)
        [container] = pod["containers"]
        if "pipeline" in self.duties(deployment):
            limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi"))
            self.promise(limit > MEMORY_ALERT, deployment, "is killed for its memory before the alert on it")
        [config] = [m for m in self.of("ConfigMap") if m["metadata"]["name"] == container["envFrom"][0]["configMapRef"]["name"]]
        drain = seconds(config["data"]["DRAIN_TIMEOUT"])
        self.promise(pod["terminationGracePeriodSeconds"] >= drain + 6, deployment, "is killed before it has drained")
        is_console = container["args"] == ["admin"]
        probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
        ready = "/livez" if is_console else "/ready"
        self.promise(probes == {"startup": "/livez", "liveness": "/livez", "readiness": ready}, deployment, f"probes {probes}")
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        variables = {e["name"]: e.get("value") for e in container["env"]}
        if is_console:
            self.promise(str(ports["admin"]) == variables["ADMIN_PORT"], deployment, "the console is not where it is asked for")
            self.promise(str(ports["metrics"]) == variables["ADMIN_METRICS_PORT"], deployment, "its metrics are not where they are asked for")
        else:
            self.promise(str(ports["health"]) == config["data"]["HEALTH_PORT"], deployment, "health is not where it is asked for")
        public = variables.get("PUBLIC_PORT")
        self.promise(ports.get("public") == (public and int(public)), deployment, "the public port is not where it is asked for")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        selector = deployment["spec"]["selector"]["matchLabels"]
        self.promise(selector.items() <= labels.items(), deployment, "does not select its own pods")
        budgets = [m for m in self.of("PodDisruptionBudget") if m["spec"]["selector"]["matchLabels"] == selector]
        self.promise(len(budgets) == 1, deployment, f"has {len(budgets)} disruption budgets")

    def check_gateway(self, deployments):
        """No Secret, Service or policy of the workers is the gateway's."""
        for gateway in [m for m in deployments.values() if self.pod(m)["containers"][0]["args"] == ["gateway"]]:
            labels = gateway["spec"]["template"]["metadata"]["labels"]
            [container] = self.pod(gateway)["containers"]
            keys = [e["valueFrom"]["secretKeyRef"]["name"] for e in container["env"] if "valueFrom" in e]
            own = all("gateway" in name for name in keys)
            self.promise(own, gateway, f"has credentials of {sorted(set(keys))}")
            for kind, selector in (("Service", lambda m: m["spec"]["selector"]), ("NetworkPolicy", lambda m: m["spec"]["podSelector"]["matchLabels"])):
                names = [m["metadata"]["name"] for m in self.of(kind) if selector(m).items() <= labels.items()]
                self.promise(names in ([], [gateway["metadata"]["name"]]), gateway, f"has the {kind} {names}")
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            port = next(e["value"] for e in container["env"] if e["name"] == "GATEWAY_PORT")
            self.promise(str(ports["gateway"]) == port, gateway, "is not where it is asked for")

    @staticmethod
    def secrets(pod):
        """The names of all Secrets that a pod sees."""
        volumes = [volume["secret"]["secretName"] for volume in pod.get("volumes", []) if "secret" in volume]
        containers = pod.get("initContainers", []) + pod["containers"]
        variables = [e["valueFrom"] for container in containers for e in container["env"] if "valueFrom" in e]
        return {*volumes, *(source["secretKeyRef"]["name"] for source in variables if "secretKeyRef" in source)}

    def check_console(self, deployments):
        """It shares no credentials with workers, and no policy but its own covers it."""
        consoles = [m for m in deployments.values() if self.pod(m)["containers"][0]["args"] == ["admin"]]
        for console in consoles:
            others = [self.secrets(self.pod(m)) for m in deployments.values() if m is not console]
            shared = self.secrets(self.pod(console)) & set().union(*others)
            self.promise(not shared, console, f"shares {sorted(shared)} with workers")
            labels = console["spec"]["template"]["metadata"]["labels"]
            policies = [m for m in self.of("NetworkPolicy") if self.covers(m["spec"]["podSelector"], labels)]
            names = [policy["metadata"]["name"] for policy in policies]
            self.promise(names == [console["metadata"]["name"]], console, f"is covered by the policies {names}")
            services = [m["metadata"]["name"] for m in self.of("Service") if m["spec"]["selector"].items() <= labels.items()]
            self.promise(services == [console["metadata"]["name"]], console, f"is served by {services}")

    @staticmethod
    def covers(selector, labels):
        expressions = selector.get("matchExpressions", [])
        assert all(expression["operator"] == "NotIn" for expression in expressions)
        excluded = any(labels.get(expression["key"]) in expression["values"] for expression in expressions)
        return selector["matchLabels"].items() <= labels.items() and not excluded

    def check_triggers(self, scaled):
        """One per queue, except those whose jobs only schedules publish."""
        rare = ("maintenance_prune", "maintenance_subscriptions", "document_cleanup", "report_ledger")
        found = {(t["metadata"]["stream"], t["metadata"]["consumer"]) for t in scaled["spec"]["triggers"]}
        queues = {tuple(path.name.split(".")[:2]) for path in STREAMS.glob("*.*.json")}
        wanted = {queue for queue in queues if queue[0] in ("JOBS", "WORK", "DELIVERIES") and queue[1] not in rare}
        self.promise(found == wanted, scaled, f"triggers differ from streams/: {sorted(found ^ wanted)}")

    def check_hooks(self):
        """A hook before the install sees no object of the release."""
        made = {(m["kind"], m["metadata"]["name"]) for m in self.manifests if "helm.sh/hook" not in m["metadata"].get("annotations", {})}
        hooks = {m["metadata"]["name"] for m in self.of("ConfigMap") if ("ConfigMap", m["metadata"]["name"]) not in made}
        for manifest in self.of("Job"):
            pod = self.pod(manifest)
            self.promise(("ServiceAccount", pod.get("serviceAccountName")) not in made, manifest, "needs a ServiceAccount that is not there yet")
            for container in pod.get("initContainers", []) + pod["containers"]:
                for source in container.get("envFrom", []):
                    name = source["configMapRef"]["name"]
                    self.promise(name in hooks, manifest, f"needs the ConfigMap {name}, which is not there yet")
                for variable in container["env"]:
                    secret = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
                    self.promise(("Secret", secret) not in made, manifest, f"needs the Secret {secret}, which is not there yet")
            steps = [c["args"][0] for c in pod.get("initContainers", []) + pod["containers"]]
            self.promise(steps in (["migrate", "streams"], ["migrate"], ["streams"]), manifest, f"steps {steps}")

    def check_rules(self):
        """Alerts cover the release's series, or the chosen ones."""
        for manifest in self.of("PrometheusRule"):
            for rule in [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]:
                scopes = re.findall(r"\b(?:carebell|messaging|process)[_:][\w:]+(\{?(?:namespace=\"care\")?)", rule["expr"])
                own = set(scopes) == {'{namespace="care"'}
                self.promise(own, manifest, f"{rule.get('alert') or rule['record']} is about others too")

    def check_streams(self):
        """NACK's streams and consumers match the files."""
        resources = self.of("Stream", "Consumer")
        if not resources:
            return
        files = {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in STREAMS.glob("*.json")}
        found = {}
        for manifest in resources:
            spec = manifest["spec"]
            found[spec["name"] if manifest["kind"] == "Stream" else f"{spec['streamName']}.{spec['durableName']}"] = manifest
            self.promise(spec["preventDelete"] is True, manifest, "an uninstall would delete what waits in it")
        if found.keys() != files.keys():
            problems.append(f"{self.name}: streams/ and resources differ: {sorted(found.keys() ^ files.keys())}")
        renamed = {"discard_new_per_subject": "discardPerSubject", "allow_rollup_hdrs": "allowRollup"}
        for name, manifest in found.items():
            for key, value in files[name].items():
                words = key.split("_")
                there = manifest["spec"].get(renamed.get(key, words[0] + "".join(word.title() for word in words[1:])))
                if key in ("max_age", "duplicate_window", "ack_wait"):
                    there = int(there.removesuffix("ms") or 0) * 1_000_000
                if key == "sources":
                    value = json.loads(json.dumps(value).replace("subject_transforms", "subjectTransforms").replace('"src"', '"source"'))
                self.promise(there == value, manifest, f"{key} is {value} in the file, and {there} here")


def check_servers():
    """The users of servers/nats.yaml have existing permissions, and passwords that the server gets."""
    assert f"process_resident_memory_bytes{{namespace=~\".*\"}} > {MEMORY_ALERT} * 1024 * 1024" in (HERE / "carebell/files/rules.yaml").read_text()
    values = yaml.safe_load((HERE / "servers/nats.yaml").read_text())
    users = values["config"]["merge"]["authorization"]["users"]
    permissions = {user["permissions"]["$include"].removeprefix("../carebell-nats/") for user in users}
    there = {path.name for path in (HERE / "carebell/nats").glob("*.conf")} - {"accounts.conf"}
    if permissions != there:
        problems.append(f"servers/nats.yaml: users have {sorted(permissions)}, and there is {sorted(there)}")
    store = values["config"]["jetstream"]["fileStore"]
    if int(store["maxSize"].removesuffix("Gi")) >= int(store["pvc"]["size"].removesuffix("Gi")):
        problems.append("servers/nats.yaml: JetStream may fill the disk")
    if not values["config"]["nats"]["tls"]["enabled"]:
        problems.append("servers/nats.yaml: the servers have no TLS")
    passwords = {user["password"].removeprefix("<< $").removesuffix(" >>") for user in users}
    if passwords != values["container"]["env"].keys():
        problems.append("servers/nats.yaml: passwords and variables differ")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("rendered", type=Path, nargs="+")
    args = parser.parse_args()
    args.split.mkdir(parents=True)
    custom = {}
    for file in args.rendered:
        manifests = [manifest for manifest in yaml.safe_load_all(file.read_text()) if manifest]
        for manifest in manifests:
            name, kind = manifest["metadata"]["name"], manifest["kind"]
            if manifest["apiVersion"] in MODELS or manifest["apiVersion"].startswith("jetstream.nats.io/"):
                custom[kind] = custom.get(kind, 0) + 1
                problem = validate_custom(manifest)
                if problem:
                    problems.append(f"{file.stem}: {kind} {name}: {problem}")
            else:
                (args.split / f"{file.stem}.{kind}.{name}.yaml").write_text(yaml.safe_dump(manifest))
        Release(file.stem, manifests).check()
    check_servers()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(custom.items()))
    print(f"-- {len(args.rendered)} releases keep what is promised; custom resources are valid: {told}")


main()
