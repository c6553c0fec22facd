"""Renders the Helm chart as Helm does, and compares what comes out with the schemas of Kubernetes.

Prints, as a line of JSON for each way to render it, the daemon's configuration file, its environment, and the commands that are run in its
container: whether the daemon takes these the caller knows.
"""

import json
import sys

import helm_python as helm
import kubernetes_validate
import yaml

CHART = sys.argv[1]
# Not of Kubernetes itself.
OTHERS = {"ServiceMonitor", "PrometheusRule"}

WAYS = {
    "as it is": {},
    "everything": {
        "ring": {"zoneLabel": "topology.kubernetes.io/zone", "name": "everything"},
        "replicas": 5,
        "tls": {"clientsShowCertificates": True},
        "access": {"adminKeySecretName": "keys"},
        "config": {"storage": {"memory_bytes": "1GiB"}, "ring": {"repair_every": "5m"}},
        "env": [{"name": "AWS_REGION", "value": "here"}],
        "antiAffinity": "preferred",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "db", "operator": "Exists"}],
        "podLabels": {"team": "a"},
        "podAnnotations": {"note": "b"},
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "registry"}],
        "persistence": {"storageClassName": "fast", "size": "1Ti"},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "serviceAccount": {"annotations": {"a": "b"}},
        "networkPolicy": {"enabled": True, "clients": [{"podSelector": {"matchLabels": {"app": "x"}}}]},
        "monitoring": {"serviceMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "p"}},
    },
    "alone": {"replicas": 1, "ring": {"founders": 1}, "networkPolicy": {"enabled": True}},
    "certificates alone": {"access": {"keysRequired": False}, "tls": {"clientsShowCertificates": True}},
}
REFUSED = [
    {"replicas": 2},
    {"ring": {"founders": 1}},
    {"access": {"keysRequired": False}},
    {"replica": 3},
    {"ring": {"zone": "a"}},
]


def check_pod(pod):
    """What a hardened pod is, whatever else is set."""
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
    volumes = {volume["name"] for volume in spec["volumes"]} | {"data"}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    return container


def rendered(chart, values):
    documents = []
    for path, text in chart.render(values, name="db", namespace="prod").items():
        if not path.endswith("NOTES.txt"):
            documents += [document for document in yaml.safe_load_all(text) if document]
    return documents


def main():
    report = helm.lint(CHART, strict=True)
    assert not report["errors"], report
    with helm.Chart.load(CHART) as chart:
        for values in REFUSED:
            try:
                rendered(chart, values)
            except helm.HelmError:
                continue
            raise AssertionError(f"{values} was rendered")
        for way, values in WAYS.items():
            documents = rendered(chart, values)
            for document in documents:
                if document["kind"] not in OTHERS:
                    kubernetes_validate.validate(document, "1.34", strict=True)
            of_kind = lambda kind: [document for document in documents if document["kind"] == kind]
            (stateful,) = of_kind("StatefulSet")
            (budget,) = of_kind("PodDisruptionBudget")
            labels = stateful["spec"]["template"]["metadata"]["labels"]
            selectors = [stateful["spec"]["selector"]["matchLabels"], budget["spec"]["selector"]["matchLabels"]]
            selectors += [service["spec"]["selector"] for service in of_kind("Service")]
            assert all(selector.items() <= labels.items() for selector in selectors), selectors
            names = {service["metadata"]["name"]: service["spec"] for service in of_kind("Service")}
            assert names[stateful["spec"]["serviceName"]]["publishNotReadyAddresses"] is True
            container = check_pod(stateful["spec"]["template"])
            (config,) = [of for of in of_kind("ConfigMap") if "allidb.yaml" in of["data"]]
            environment = {of["name"]: of["value"] for of in container["env"] if "value" in of}
            environment = {name: value.replace("$(POD_NAME)", "db-allidb-0") for name, value in environment.items()}
            told = {
                "way": way,
                "config": config["data"]["allidb.yaml"],
                "environment": environment,
                "commands": [container["args"], container["lifecycle"]["preStop"]["exec"]["command"][1:]],
                "image": container["image"],
                "alerts": [of["spec"]["groups"] for of in of_kind("PrometheusRule")],
            }
            print(json.dumps(told))


main()
