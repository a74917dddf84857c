#!/usr/bin/env python3
"""deploy_test.py PROGRAM: the files in deploy/ against the real program.

YAML and JSON parse; every metric in the dashboard and the alerts is in /metrics of the running service; ports, paths and
options are the program's; and nginx, promtool, kubectl and systemd-analyze accept their files where they are installed.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

try:
    import yaml
except ImportError:
    print("python3-yaml is not installed: deploy/ is not checked")
    sys.exit(77)

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
DEPLOY = os.path.join(ROOT, "deploy")
failures = []


def expect(condition, message):
    if not condition:
        failures.append(message)


def read(path):
    with open(os.path.join(DEPLOY, path), encoding="utf-8") as file:
        return file.read()


def documents(path):
    return [document for document in yaml.safe_load_all(read(path)) if document is not None]


# Metrics of Prometheus and of other exporters; everything else must be ours.
FOREIGN = re.compile(r"^(up|ALERTS.*|DCGM_FI_.*)$")
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool", "le", "inf"}


def metric_names(expression):
    """The names of the metrics in a PromQL expression."""
    expression = re.sub(r'"[^"]*"', '""', expression)
    expression = re.sub(r"\{[^}]*\}", "", expression)
    expression = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", expression)
    expression = re.sub(r"\[[^\]]*\]", "", expression)
    names = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b", expression)
    functions = re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\(", expression)
    return {name for name in names if name not in WORDS and name not in functions}


def check_metric_names_itself():
    got = metric_names('histogram_quantile(0.95, sum by (le) (rate(a_bucket{x="y z"}[5m]))) > 1 and b / on (i) c{q=~"d"}')
    expect(got == {"a_bucket", "b", "c"}, f"the reader of expressions finds {got}")


class Service:
    """`onggi serve` on free ports with the embedded model."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program, "serve", "--model", "models/onggi-mini", "--port", "0", "--ollama-port", "0", "--lang", "en"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.url = ""
        for line in self.process.stdout:
            found = re.search(r"GET\s+(http://\S+)/health", line)
            if found:
                self.url = found.group(1)
                return
        raise SystemExit("onggi serve did not start")

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method,
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read().decode()

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


def check_metrics(service):
    status, _ = service.ask("POST", "/chat", {"message": "안녕하세요", "max_tokens": 4})
    expect(status == 200, "/chat does not answer")
    text = service.ask("GET", "/metrics")[1]
    series = set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[{ ]", text, re.MULTILINE))
    labels = set(re.findall(r'[{,]([a-zA-Z_]+)="', text)) | {"job", "instance"}
    used = {}
    dashboard = json.loads(read("grafana/dashboards/onggi.json"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used[target["expr"]] = f"dashboard, {panel['title']}"
    for variable in dashboard["templating"]["list"]:
        used[re.sub(r"label_values\((\w+), \w+\)", r"\1", variable["query"]["query"])] = "dashboard's variable"
    for group in documents("prometheus/alerts.yml")[0]["groups"]:
        for rule in group["rules"]:
            used[rule["expr"]] = f"alert {rule['alert']}"
    for file in ("hpa.yaml",):
        for metric in documents(f"kubernetes/base/{file}")[0]["spec"]["metrics"]:
            used[metric["pods"]["metric"]["name"]] = file
    count = 0
    for expression, where in used.items():
        names = {name for name in metric_names(expression) if not FOREIGN.match(name)}
        count += len(names)
        for name in names:
            expect(name in series, f"{where}: /metrics has no {name}")
        for label in re.findall(r'[{,]\s*(\w+)\s*(?:=~|!~|!=|=)', expression):
            expect(label in labels, f"{where}: no metric has the label {label}")
    expect(count > 30, f"only {count} uses of metrics were found")
    return count


def check_paths(service):
    """Each path that the files name is answered by the program (with another status than 404)."""
    paths = {"/health", "/metrics", "/chat", "/v1/models", "/v1/chat/completions", "/dashboard"}
    for document in documents("kubernetes/base/onggi.yaml"):
        if document["kind"] == "Deployment":
            container = document["spec"]["template"]["spec"]["containers"][0]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                paths.add(container[probe]["httpGet"]["path"])
    paths.add(documents("kubernetes/base/servicemonitor.yaml")[0]["spec"]["endpoints"][0]["path"])
    paths.update(path for path in re.findall(r"location (?:= )?(/\S+) \{", read("nginx/nginx.conf")))
    for script in ("load/locustfile.py", "load/k6.js"):
        paths.update(re.findall(r'(?:"|\$\{url\})(/[a-z0-9/]+)["`]', read(script)))
    for path in sorted(paths):
        for method, body in (("GET", None), ("POST", {})):
            try:
                service.ask(method, path, body)
                break
            except urllib.error.HTTPError as error:
                if error.code not in (404, 405):
                    break
        else:
            expect(False, f"the program answers nothing at {path}")


def server_defaults():
    """[server] of onggi.toml."""
    with open(os.path.join(ROOT, "onggi.toml"), encoding="utf-8") as file:
        section = re.search(r"^\[server\]\n(.*?)(?=^\[)", file.read(), re.MULTILINE | re.DOTALL).group(1)
    return dict(re.findall(r"^(\w+) = (.+)$", section, re.MULTILINE))


def check_ports_and_limits():
    server = server_defaults()
    port, ollama = int(server["port"]), int(server["ollama_port"])
    for file in ("Dockerfile", "Dockerfile.cuda"):
        expect(f"EXPOSE {port} {ollama}" in read(file), f"{file} exposes other ports than {port} and {ollama}")
        expect(f"127.0.0.1:{port}/health" in read(file), f"{file} asks another port for its health")
    compose = documents("compose.yaml")[0]["services"]
    expect(compose["onggi"]["expose"] == [str(port), str(ollama)], "compose.yaml exposes other ports")
    expect(f"server onggi:{port};" in read("nginx/nginx.conf"), "nginx.conf asks another port")
    jobs = {job["job_name"]: job for job in documents("prometheus/prometheus.yml")[0]["scrape_configs"]}
    expect(jobs["onggi"]["static_configs"][0]["targets"] == [f"onggi:{port}"], "prometheus.yml asks another port")
    ports = {}
    for document in documents("kubernetes/base/onggi.yaml"):
        if document["kind"] == "Deployment":
            container = document["spec"]["template"]["spec"]["containers"][0]
            ports = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
        if document["kind"] == "Service":
            ports.update({"service " + entry["name"]: entry["port"] for entry in document["spec"]["ports"]})
    expect(ports == {"http": port, "ollama": ollama, "service http": port, "service ollama": ollama},
           f"the Kubernetes manifests have other ports: {ports}")

    nginx = read("nginx/nginx.conf")
    body = int(re.search(r"client_max_body_size (\d+)m;", nginx).group(1)) * 2**20
    expect(body == int(server["max_body_bytes"]), "client_max_body_size is not server.max_body_bytes")
    wait = int(re.search(r"proxy_read_timeout (\d+)s;", nginx).group(1))
    expect(wait > int(server["request_timeout_s"]), "nginx gives up before server.request_timeout_s")
    expect("proxy_buffering off;" in nginx, "nginx buffers streams")


def check_options(program):
    """The commands that the files start are ones that the program has, with options that it has."""
    known = {}
    for command in ("serve", "run", "loadtest"):
        text = subprocess.run([program, command, "--help", "--lang", "en"], capture_output=True, text=True, check=True).stdout
        known[command] = set(re.findall(r"--[a-z][a-z-]*", text))
    commands = []
    for file in ("Dockerfile", "Dockerfile.cuda"):
        commands.append(json.loads(re.search(r"^CMD (\[\"serve.*\])$", read(file), re.MULTILINE).group(1)))
    commands.append(documents("compose.yaml")[0]["services"]["onggi"]["command"])
    for file in ("onggi.yaml", "train.yaml"):
        for document in documents(f"kubernetes/base/{file}"):
            if document["kind"] in ("Deployment", "Job"):
                commands.append(document["spec"]["template"]["spec"]["containers"][0]["args"])
    commands.append(re.search(r"^ExecStart=\S+/onggi (.*)$", read("systemd/onggi.service"), re.MULTILINE).group(1).split())
    commands += [line.split()[1:] for line in re.findall(r"^    (onggi loadtest .*)$", read("README.md"), re.MULTILINE)]
    expect(len(commands) >= 7, "commands are missing")
    for command in commands:
        expect(command[0] in known, f"onggi has no command {command[0]}")
        for word in command[1:]:
            if word.startswith("--"):
                expect(word in known.get(command[0], ()), f"onggi {command[0]} has no option {word}")
            if word.endswith(".toml") and not word.startswith("$"):
                expect(os.path.exists(os.path.join(ROOT, word)), f"there is no {word}")


def check_parse():
    count = 0
    for folder, _, files in os.walk(DEPLOY):
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), DEPLOY)
            try:
                if name.endswith((".yaml", ".yml")):
                    expect(documents(path), f"{path} is empty")
                elif name.endswith(".json"):
                    json.loads(read(path))
                elif name.endswith(".py"):
                    ast.parse(read(path))
                else:
                    continue
                count += 1
            except (yaml.YAMLError, ValueError, SyntaxError) as error:
                expect(False, f"{path} does not parse: {error}")
    expect(count >= 14, f"only {count} files were found")
    # The pieces of compose.yaml that the files mount are there.
    for name, service in documents("compose.yaml")[0]["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                expect(os.path.exists(os.path.join(DEPLOY, source)), f"compose.yaml, {name}: there is no {source}")


def run_tool(arguments, what):
    done = subprocess.run(arguments, capture_output=True, text=True)
    expect(done.returncode == 0, f"{what}:\n{done.stdout}{done.stderr}")


def find_tool(name):
    """On the PATH, or where root's programs are."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def check_with_tools():
    skipped = []
    if promtool := find_tool("promtool"):
        run_tool([promtool, "check", "config", os.path.join(DEPLOY, "prometheus/prometheus.yml")], "promtool")
    else:
        skipped.append("promtool")
    if nginx := find_tool("nginx"):
        with tempfile.TemporaryDirectory() as scratch:
            # The upstream's name is known inside the containers' network alone; the folders are root's.
            text = read("nginx/nginx.conf").replace("server onggi:", "server 127.0.0.1:")
            text = text.replace("/tmp/nginx.pid", f"{scratch}/pid").replace("listen 80;", "listen 8080;")
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
                text = text.replace("http {", f"http {{\n  {kind}_temp_path {scratch}/{kind};", 1)
            with open(os.path.join(scratch, "nginx.conf"), "w", encoding="utf-8") as file:
                file.write(text)
            run_tool([nginx, "-t", "-q", "-p", scratch, "-c", os.path.join(scratch, "nginx.conf"), "-e", "/dev/stderr"], "nginx")
    else:
        skipped.append("nginx")
    if (kubectl := find_tool("kubectl")) and "kustomize" in subprocess.run(
            [kubectl, "--help"], capture_output=True, text=True).stdout:
        for folder in ("base", "gpu"):
            run_tool([kubectl, "kustomize", os.path.join(DEPLOY, "kubernetes", folder)], f"kubectl kustomize {folder}")
    else:
        skipped.append("kubectl")
    if analyze := find_tool("systemd-analyze"):
        with tempfile.TemporaryDirectory() as scratch:
            unit = os.path.join(scratch, "onggi.service")
            with open(unit, "w", encoding="utf-8") as file:
                file.write(read("systemd/onggi.service").replace("/usr/local/bin/onggi", shutil.which("true")))
            run_tool([analyze, "verify", unit], "systemd-analyze verify")
    else:
        skipped.append("systemd-analyze")
    if node := find_tool("node"):
        with tempfile.NamedTemporaryFile("w", suffix=".mjs", encoding="utf-8") as script:
            script.write(read("load/k6.js"))
            script.flush()
            run_tool([node, "--check", script.name], "node --check k6.js")
    else:
        skipped.append("node")
    return skipped


def main():
    program = os.path.realpath(sys.argv[1])
    check_metric_names_itself()
    check_parse()
    check_ports_and_limits()
    check_options(program)
    service = Service(program)
    try:
        uses = check_metrics(service)
        check_paths(service)
    finally:
        service.stop()
    skipped = check_with_tools()
    for tool in skipped:
        print(f"{tool} is not installed: its file was not given to it")
    if failures:
        print("\n".join(failures))
        return 1
    print(f"deploy/ agrees with the program ({uses} uses of metrics)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
