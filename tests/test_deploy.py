"""What is in deploy/ fits the program: arguments parse, probes have routes, a drain has its time, files are there.

No image is built here: that takes a daemon and a network.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from esrt.cli.main import parser
from esrt.cli.serve import DRAIN_SECONDS
from esrt.cloud.openapi import document
from esrt.cloud.server import NOTICE_SECONDS

yaml: Any = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))
INSTRUCTIONS = {
    "FROM", "WORKDIR", "ARG", "ENV", "RUN", "COPY", "VOLUME", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD",
}  # fmt: skip
SOURCE = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "esrt").rglob("*.py"))
DOCS = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instruction and argument of each line, comments left out."""
    lines = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)]


def json_words(text: str) -> list[str]:
    words: list[str] = yaml.safe_load(text)
    return words


def find(kind: str, name: str) -> dict[str, Any]:
    [one] = [it for it in OBJECTS if it["kind"] == kind and it["metadata"]["name"] == name]
    return one


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = find("Deployment", name)["spec"]["template"]["spec"]
    return spec


def test_there_is_something() -> None:
    assert [path.suffix for path in DOCKERFILES] == [".cloud-cpu", ".cloud-gpu", ".edge"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_a_dockerfile(path: Path) -> None:
    lines = instructions(path)
    assert {word for word, _ in lines} <= INSTRUCTIONS
    last = dict(lines)
    bases = [rest.split()[0] for word, rest in lines if word == "FROM"]
    assert all(re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+-[a-z-]+", base) for base in bases), "bases name their version"
    assert last["USER"].isdigit() and int(last["USER"]) > 0
    for word, rest in lines:
        if word == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert sources and all((ROOT / source).exists() for source in sources), rest
            allowed = (ROOT / ".dockerignore").read_text().split()
            assert all(f"!{source.removeprefix('./')}" in allowed for source in sources), rest
        if word == "RUN" and "pip install" in rest:
            extras = set(re.findall(r"[a-z]+", re.findall(r"'\.\[(.*)\]'", rest)[0]))
            known = set(re.findall(r"^([a-z]+) = \[$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
            assert extras and extras <= known
    for name in re.findall(r"\b(ESRT_\w+)=", path.read_text()):
        assert f'"{name}"' in SOURCE, f"nobody reads {name}"
    assert last["ENV"].partition("ESRT_CACHE=")[2].split()[0] == last["VOLUME"]
    check = json_words(last["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[-1], "HEALTHCHECK", "exec")
    served = re.findall(r"127\.0\.0\.1:(\d+)(/\S+?)'", check[-1])
    assert {port for port, _ in served} == {last["EXPOSE"]}
    if "serve" in last["CMD"]:
        assert all(route in document()["paths"] for _, route in served)
        args = parser().parse_args(json_words(last["CMD"]))
        assert args.port == int(last["EXPOSE"]) and args.key_file and not args.no_auth


def test_compose() -> None:
    services = COMPOSE["services"]
    args = parser().parse_args(services["cloud"]["command"])
    assert args.cache.startswith("redis://redis:") and "redis" in services and args.host == "0.0.0.0"
    assert any(volume.split(":")[1] == args.key_file for volume in services["cloud"]["volumes"])
    assert services["cloud"]["ports"] == [f"127.0.0.1:{args.port}:{args.port}"], "it speaks no TLS"
    assert int(services["cloud"]["stop_grace_period"].rstrip("s")) > NOTICE_SECONDS + DRAIN_SECONDS
    build = services["cloud"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    for service in services.values():
        assert "build" in service or re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-alpine)?", service["image"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and not source.startswith("./secrets/"):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("./"):
                assert source in COMPOSE["volumes"]


def test_prometheus_finds_the_cloud_and_has_a_key() -> None:
    told = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    [job] = told["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    services = COMPOSE["services"]
    assert targets == ["cloud:8080"] and job.get("metrics_path", "/metrics") in document()["paths"]
    mounted = [volume.split(":")[1] for volume in services["prometheus"]["volumes"]]
    assert {job["authorization"]["credentials_file"], *told.get("rule_files", [])} <= set(mounted)


def test_kubernetes_arguments_and_ports() -> None:
    spec = pod("esrt")
    [container] = spec["containers"]
    args = parser().parse_args(container["args"])
    port = container["ports"][0]["containerPort"]
    assert args.port == port and args.host == "0.0.0.0"
    assert Path(args.key_file).parent == Path(container["volumeMounts"][0]["mountPath"])
    redis = find("Service", "esrt-redis")
    assert args.cache == f"redis://esrt-redis:{redis['spec']['ports'][0]['port']}/0"
    assert {volume["name"] for volume in spec["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}
    for name in ("esrt", "esrt-redis"):
        labels = find("Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert find("Service", name)["spec"]["selector"] == labels
        assert find("Deployment", name)["spec"]["selector"]["matchLabels"] == labels
        ports = {port["name"] for port in pod(name)["containers"][0]["ports"]}
        assert find("Service", name)["spec"]["ports"][0]["targetPort"] in ports
    assert find("HorizontalPodAutoscaler", "esrt")["spec"]["scaleTargetRef"]["name"] == "esrt"
    assert find("PodDisruptionBudget", "esrt")["spec"]["selector"]["matchLabels"] == {"app": "esrt"}


def test_kubernetes_probes_and_drain() -> None:
    spec = pod("esrt")
    [container] = spec["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in document()["paths"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    slept = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > slept + NOTICE_SECONDS + DRAIN_SECONDS
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 600


@pytest.mark.parametrize("name", ["esrt", "esrt-redis"])
def test_kubernetes_gives_no_more_than_needed(name: str) -> None:
    spec = pod(name)
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert not spec["automountServiceAccountToken"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
    assert re.search(r":v?\d+\.\d+\.\d+", container["image"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic")
def test_the_file_for_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    from ray.serve.schema import ServeDeploySchema

    from esrt.cloud.key_file import add_key
    from esrt.cloud.ray_serve import Cloud, build
    from esrt.errors import UsageError

    told = yaml.safe_load((DEPLOY / "ray.yaml").read_text())
    [application] = ServeDeploySchema.model_validate(told).applications
    add_key("laptop", tmp_path / "keys.txt")
    args = {**application.args, "key_file": str(tmp_path / "keys.txt")}
    assert application.import_path == f"{build.__module__}:{build.__name__}" and build(args)
    assert [deployment.name for deployment in application.deployments] == [Cloud.__name__]
    with pytest.raises(UsageError):
        build({**args, "cache": "memory"})
    with pytest.raises(ValueError, match="qeue"):
        build({**args, "qeue": 3})


def test_commands_in_the_docs_parse() -> None:
    commands = re.findall(r"^esrt (.+)$", DOCS, re.MULTILINE)
    assert commands
    for command in commands:
        assert parser().parse_args(shlex.split(command.split("#")[0].split(">")[0])).run
    for name in re.findall(r"deploy/[\w.-]+\w", DOCS):
        assert (ROOT / name).exists() or name.startswith("deploy/secrets"), name
