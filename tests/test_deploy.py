"""What stands in `deploy/` fits the server: its times, its settings, its limits. Nothing of it runs here."""

import re
import socket
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import local_cluster
from deploy.balancer import command, configure, find_nginx
from deploy.local_cluster import StartError, find_programs
from server import app
from server.events import VERSION
from server.settings import Settings
from server.settings_load import OPTIONS
from tests.node import ROOT

DEPLOY = ROOT / "deploy"
SETTINGS = Settings()
SILENT_S = SETTINGS.realtime.ping_interval_s + SETTINGS.realtime.ping_timeout_s
# Unready; everybody sent away; answers under way; what was accepted stored and told.
DRAIN_S = SETTINGS.server.drain_delay_s + app._LONGEST_SPREAD_S + 2 * app._STOP_TIMEOUT_S
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file() and path.name != ".env")
EXACT = re.compile(r":\d+\.\d+\.\d+(-[a-z0-9.-]+)?$")


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def directives(name: str) -> str:
    """The file without its comments."""
    return re.sub(r"^\s*#.*$", "", text(name), flags=re.MULTILINE)


def seconds(value: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)?", value).groups()  # type: ignore[union-attr]  # else it fails
    return int(number) * {"ms": 0.001, "s": 1, None: 1, "m": 60, "h": 3600}[unit]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nginx_value(directive: str) -> str:
    """The one value that the directive has; it may go over several lines."""
    pattern = re.compile(rf"^\s*{directive}\s+(.+?);", re.MULTILINE | re.DOTALL)
    (value,) = pattern.findall(directives("nginx.conf"))
    assert isinstance(value, str)
    return value


def unit_values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text("tertulia@.service"), flags=re.MULTILINE)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text("compose.yaml"))
    return loaded


def kubernetes(kind: str) -> dict[str, Any]:
    (found,) = [each for each in yaml.safe_load_all(text("kubernetes.yaml")) if each["kind"] == kind]
    assert isinstance(found, dict)
    return found


def pod() -> dict[str, Any]:
    found: dict[str, Any] = kubernetes("Deployment")["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    assert isinstance(found, dict)
    return found


def images() -> Iterator[str]:
    yield from re.findall(r"^FROM (\S+)", text("Dockerfile"), flags=re.MULTILINE)
    yield from (service["image"] for service in compose()["services"].values())
    yield container()["image"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_named_is_a_setting(path: Path) -> None:
    known = {option.variable for option in OPTIONS.values()}
    named = re.findall(r"TERTULIA_[A-Z0-9]+__[A-Z0-9_]+", path.read_text(encoding="utf-8"))
    assert {name.removesuffix("_FILE") for name in named if name not in known} <= known


def test_every_image_has_an_exact_version() -> None:
    found = list(images())
    assert len(found) >= 8
    assert [image for image in found if not EXACT.search(image)] == []


def test_our_own_image_has_the_version_of_the_server() -> None:
    ours = [image for image in images() if "tertulia" in image]
    assert {image.rpartition(":")[2] for image in ours} == {VERSION}


class TestNginx:
    @pytest.mark.parametrize("directive", ["proxy_read_timeout", "proxy_send_timeout"])
    def test_a_silent_connection_is_closed_by_a_server_first(self, directive: str) -> None:
        assert seconds(nginx_value(directive)) > SILENT_S

    def test_a_connection_to_a_server_is_closed_by_nginx_first(self) -> None:
        assert seconds(nginx_value("keepalive_timeout")) < app._IDLE_TIMEOUT_S

    def test_the_log_holds_no_query(self) -> None:
        variables = set(re.findall(r"\$(\w+)", nginx_value("log_format")))
        assert "uri" in variables
        assert not variables & {"request", "request_uri", "args", "query_string", "http_referer"}
        assert not [name for name in variables if name.startswith(("arg_", "cookie_", "http_auth"))]

    def test_the_error_log_quotes_no_requests(self) -> None:
        """At `error` nginx quotes the request that a server did not answer."""
        assert nginx_value("error_log").split()[-1] in ("crit", "alert", "emerg")

    def test_a_body_that_is_too_large_is_refused_by_the_server(self) -> None:
        value = nginx_value("client_max_body_size")
        assert int(value.removesuffix("k")) * 1024 > SETTINGS.realtime.max_packet_bytes

    def test_lines_of_a_head_may_be_as_long_as_a_server_takes_them(self) -> None:
        size = nginx_value("large_client_header_buffers").split()[1]
        assert int(size.removesuffix("k")) * 1024 >= app._LONGEST_HEADER_BYTES

    def test_nginx_takes_it(self, tmp_path: Path) -> None:
        nginx = find_nginx()
        if nginx is None:
            pytest.skip("no nginx on the PATH; make services installs it (as root, by apt)")
        config = configure(
            tmp_path, listen=f"127.0.0.1:{free_port()}", servers=["127.0.0.1:8081", "127.0.0.1:8082"]
        )
        done = subprocess.run([*command(nginx, config), "-t"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "[" not in done.stderr, done.stderr


class TestApache:
    def test_a_silent_connection_is_closed_by_a_server_first(self) -> None:
        timeouts = re.findall(r" timeout=(\d+)", directives("apache.conf"))
        assert len(timeouts) == 2
        assert all(int(each) > SILENT_S for each in timeouts)

    def test_a_connection_to_a_server_is_closed_by_apache_first(self) -> None:
        times = re.findall(r" ttl=(\d+)", directives("apache.conf"))
        assert len(times) == 2
        assert all(int(each) < app._IDLE_TIMEOUT_S for each in times)

    def test_the_log_holds_no_query(self) -> None:
        (log,) = re.findall(r'LogFormat "(.+)" tertulia', directives("apache.conf"))
        assert "%U" in log
        assert not re.search(r"%[<>]?[rq]|Referer", log)


class TestUnit:
    def test_a_drain_has_its_time(self) -> None:
        assert unit_values("KillSignal") == ["SIGTERM"]
        assert seconds(unit_values("TimeoutStopSec")[0]) > DRAIN_S

    def test_it_runs_as_a_user_without_rights(self) -> None:
        assert unit_values("DynamicUser") == ["yes"]
        assert unit_values("NoNewPrivileges") == ["yes"]
        assert unit_values("CapabilityBoundingSet") == [""]

    def test_secrets_come_by_files(self) -> None:
        credentials = {each.partition(":")[0] for each in unit_values("LoadCredential")}
        given = dict(each.split("=", 1) for each in unit_values("Environment"))
        files = {name: value for name, value in given.items() if name.endswith("_FILE")}
        assert {value.removeprefix("%d/") for value in files.values()} == credentials
        assert set(files) == {
            "TERTULIA_AUTH__SECRET_FILE",
            "TERTULIA_DATABASE__URL_FILE",
            "TERTULIA_CLUSTER__URL_FILE",
        }


class TestImage:
    def test_it_runs_as_a_user_without_rights(self) -> None:
        (user,) = re.findall(r"^USER (\d+):\d+$", text("Dockerfile"), flags=re.MULTILINE)
        assert int(user) >= 10_000
        assert pod()["securityContext"]["runAsUser"] == int(user)

    def test_its_health_is_that_of_the_server(self) -> None:
        (program,) = re.findall(r'CMD \["python", "-c", "(.+)"\]', text("Dockerfile"))
        assert "/healthz" in program
        compile(program.replace('\\"', '"'), "healthcheck", "exec")

    def test_what_it_copies_is_there_and_reaches_the_builder(self) -> None:
        ignored = text("Dockerfile.dockerignore").splitlines()
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text("Dockerfile"), flags=re.MULTILINE)
        sources = [source for line in copied for source in line.split()]
        assert len(sources) >= 8
        assert [source for source in sources if not (ROOT / source).exists()] == []
        assert [source for source in sources if f"!{source}" not in ignored] == []


class TestCompose:
    def test_a_drain_has_its_time(self) -> None:
        for name in ("server-1", "server-2"):
            assert seconds(compose()["services"][name]["stop_grace_period"]) > DRAIN_S

    def test_servers_wait_for_what_they_need(self) -> None:
        conditions = compose()["services"]["server-1"]["depends_on"]
        assert conditions["redis"]["condition"] == "service_healthy"
        assert conditions["mongo-init"]["condition"] == "service_completed_successfully"

    def test_no_secret_stands_in_it(self) -> None:
        for url in re.findall(r"://[^\s\"@]*@", text("compose.yaml")):
            assert re.search(r":\$\{\w+:\?.*\}@", url), url

    def test_every_value_it_asks_for_is_in_the_example(self) -> None:
        asked = set(re.findall(r"\$\{(\w+)", text("compose.yaml")))
        asked |= {each["environment"] for each in compose()["secrets"].values()}
        assert asked == set(re.findall(r"^(\w+)=", text("env.example"), flags=re.MULTILINE))

    def test_nginx_is_the_one_proxy_that_is_believed(self) -> None:
        services = compose()["services"]
        address = services["nginx"]["networks"]["front"]["ipv4_address"]
        assert services["server-1"]["environment"]["TERTULIA_SERVER__TRUSTED_PROXIES"] == f"{address}/32"

    def test_nginx_is_sent_to_the_servers_of_the_network(self, tmp_path: Path) -> None:
        """Its substitutions are run on the delivered file: each must still hit something."""
        script = compose()["services"]["nginx"]["entrypoint"][-1].partition("exec")[0]
        copy = tmp_path / "nginx.conf"
        script = script.replace("/etc/tertulia/nginx.conf", str(DEPLOY / "nginx.conf"))
        script = re.sub(r"> \S+", f"> {copy}", script)
        subprocess.run(["/bin/sh", "-ec", script], check=True)
        services = compose()["services"]
        servers = [services[name]["networks"]["front"]["ipv4_address"] for name in ("server-1", "server-2")]
        found = re.findall(r"^\s+(?:server|listen) ([\d.:]+)", copy.read_text(), flags=re.MULTILINE)
        assert found == [*(f"{server}:8080" for server in servers), "8080"]

    def test_redis_keeps_nothing(self) -> None:
        script = compose()["services"]["redis"]["entrypoint"][-1]
        assert "appendonly no" in script
        assert 'save ""' in script
        assert "requirepass" in script


class TestKubernetes:
    def test_a_drain_has_its_time(self) -> None:
        assert pod()["terminationGracePeriodSeconds"] > DRAIN_S

    def test_nobody_new_comes_when_it_closes(self) -> None:
        probe = container()["readinessProbe"]
        assert probe["httpGet"]["path"] == "/readyz"
        assert probe["periodSeconds"] * probe["failureThreshold"] < SETTINGS.server.drain_delay_s

    def test_a_store_that_is_away_restarts_nothing(self) -> None:
        for probe in ("livenessProbe", "startupProbe"):
            assert container()[probe]["httpGet"]["path"] == "/healthz"

    def test_a_service_adds_no_variables(self) -> None:
        assert pod()["enableServiceLinks"] is False

    def test_it_runs_as_a_user_without_rights(self) -> None:
        assert pod()["securityContext"]["runAsNonRoot"] is True
        assert pod()["automountServiceAccountToken"] is False
        own = container()["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}

    def test_secrets_come_by_reference(self) -> None:
        assert "Secret" not in [each["kind"] for each in yaml.safe_load_all(text("kubernetes.yaml"))]
        (volume,) = pod()["volumes"]
        (mount,) = container()["volumeMounts"]
        files = [each["value"] for each in container()["env"]]
        assert volume["name"] == mount["name"]
        assert [fnmatch(file, f"{mount['mountPath']}/*") for file in files] == [True] * 3

    def test_all_select_the_same_pods(self) -> None:
        labels = kubernetes("Deployment")["spec"]["template"]["metadata"]["labels"]
        assert kubernetes("Deployment")["spec"]["selector"]["matchLabels"] == labels
        assert kubernetes("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
        assert kubernetes("Service")["spec"]["selector"] == labels
        for spread in pod()["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"] == labels

    def test_the_ingress_leads_to_the_service_and_waits_long_enough(self) -> None:
        ingress, service = kubernetes("Ingress"), kubernetes("Service")
        (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
        assert path["backend"]["service"]["name"] == service["metadata"]["name"]
        ports = [port["name"] for port in service["spec"]["ports"]]
        assert path["backend"]["service"]["port"]["name"] in ports
        annotations = ingress["metadata"]["annotations"]
        times = [annotations[name] for name in annotations if "timeout" in name]
        assert len(times) == 4
        assert all(seconds(each) > SILENT_S for each in times)


class TestLocalCluster:
    def test_all_that_is_missing_is_named_with_what_to_type(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(local_cluster, "find_nginx", lambda: None)
        with pytest.raises(StartError) as refused:
            find_programs({}, ferretdb=tmp_path / "ferretdb")
        lines = str(refused.value).splitlines()
        assert [line.split()[3].rstrip(".") for line in lines] == ["nginx", "redis-server", "a"]
        assert all("Type: " in line for line in lines)

    def test_what_has_a_url_is_not_started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(local_cluster, "find_nginx", lambda: "nginx")
        env = {"TERTULIA_DATABASE__URL_FILE": "url", "TERTULIA_CLUSTER__URL": "redis://host"}
        programs = find_programs(env, ferretdb=tmp_path / "ferretdb")
        assert (programs.redis, programs.mongod, programs.ferretdb) == (None, None, None)
