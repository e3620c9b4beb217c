"""Starts the server, lets schemathesis send requests generated from its own document, judges the answers.

Fails on a 5xx answer, a status the operation does not list, a body off its schema, and where fewer than
MINIMUM_ACCEPTED of an operation's requests reach a 2xx: then the document promises what is refused.
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import contract_hooks

MOST_EXAMPLES = int(os.environ.get("EXAMPLES", "200"))  # per operation
ONLY = os.environ.get("ONLY")  # of the paths that this regular expression finds
ANSWER_SECONDS = 60  # nothing is said about time here
KEY = "sk-fuzz"
MOST_TOKENS = 16  # per answer: it is the contract that is tested, not the model
MINIMUM_ACCEPTED = 0.3
START_SECONDS = 120
# The default model has no fill-in-the-middle tokens: all that is well formed is answered with 501, which counts as
# a server's error here. The scenarios ask a model that has them.
CANNOT = "/infill"
# These operations answer nothing but refusals, or what schemathesis itself read, which it counts among none.
NEVER_ACCEPTED = ("POST /v1/responses/{response_id}/cancel", "GET /openapi.json")
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


def main():
    binary, model = (str(Path(path).resolve()) for path in sys.argv[1:])
    command = [binary, "-m", model, "--alias", contract_hooks.MODEL, "--port", "0", "-n", str(MOST_TOKENS)]
    command += ["--ctx-size", "2048", "--parallel", "4", "--log-format", "json", "--api-key", KEY]
    command += ["--metrics", "--embedding", "--props"]
    with tempfile.TemporaryDirectory() as slots:
        return run(command + ["--slot-save-path", slots])


def run(command):
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        address = address_of(server)
        # The log is read on, or the server would wait for room in the pipe.
        threading.Thread(target=collections.deque, args=(server.stderr, 0), daemon=True).start()
        wait_until_loaded(address)
        problems = fuzz(address)
        if server.poll() is not None:
            problems.append(f"the server ended with exit code {server.returncode}")
    finally:
        server.terminate()
        server.wait()
    for problem in problems:
        print(f"contract-fuzz: {problem}")
    print(f"contract-fuzz: {'failed' if problems else 'passed'}")
    return 1 if problems else 0


def address_of(server):
    for line in server.stderr:
        print(line, end="", file=sys.stderr)
        if line.startswith("{") and "address" in (event := json.loads(line)):
            return event["address"]
    raise SystemExit(f"contract-fuzz: the server ended with exit code {server.wait()} before it listened")


def wait_until_loaded(address):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=10).close()
            return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise SystemExit(f"contract-fuzz: /health says {error.code}: {error.read()!r}") from error
        time.sleep(0.2)
    raise SystemExit(f"contract-fuzz: the model was not loaded after {START_SECONDS} seconds")


def fuzz(address):
    schemathesis = Path(sys.executable).with_name("schemathesis")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "requests.har"
        command = [str(schemathesis), "run", f"{address}/openapi.json", "--checks", ",".join(CHECKS)]
        command += ["--phases", "examples,fuzzing", "--max-examples", str(MOST_EXAMPLES)]
        command += ["--exclude-path", CANNOT, "--request-timeout", str(ANSWER_SECONDS)]
        if ONLY:
            command += ["--include-path-regex", ONLY]
        command += ["--generation-deterministic", "--header", f"Authorization: Bearer {KEY}"]
        command += ["--suppress-health-check", "all", "--continue-on-failure", "--no-color"]
        command += ["--report", "har", "--report-har-path", report]
        problems = []
        # It leaves a cache where it runs, and finds the hooks where Python looks.
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": contract_hooks.__name__}
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parent)
        if subprocess.run(command, check=False, cwd=folder, env=environment).returncode != 0:
            problems.append("schemathesis found answers that break the contract: see above")
        if not report.exists():
            return problems
        entries = json.loads(report.read_text(encoding="utf-8"))["log"]["entries"]
    return problems + judge(document(address), entries)


def document(address):
    with urllib.request.urlopen(f"{address}/openapi.json", timeout=10) as answer:
        return json.load(answer)


def judge(description, entries):
    """Counts per operation what reached a 2xx; says where that is too little."""
    operations = {}
    for path, item in description["paths"].items():
        pattern = re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]*", re.escape(path)))
        for method in item.keys() & {"get", "post", "put", "delete", "patch"}:
            operations[method.upper(), path] = pattern
    sent, accepted = collections.Counter(), collections.Counter()
    for entry in entries:
        method, path = entry["request"]["method"], urlsplit(entry["request"]["url"]).path
        # The exact path comes first: `/v1/models` is no value of `/v1/models/{model}`.
        found = [key for key, pattern in operations.items() if key[0] == method and pattern.fullmatch(path)]
        for operation in sorted(found, key=lambda key: "{" in key[1])[:1]:
            sent[operation] += 1
            accepted[operation] += 200 <= entry["response"]["status"] < 300
    problems = []
    for operation in sorted(operations):
        if ONLY and not re.search(ONLY, operation[1]):
            continue
        name, total, good = " ".join(operation), sent[operation], accepted[operation]
        print(f"contract-fuzz: {name}: {good} of {total} requests reached a 2xx")
        if operation[1] == CANNOT or name in NEVER_ACCEPTED:
            continue
        if good < MINIMUM_ACCEPTED * max(total, 1):
            problems.append(f"{name}: only {good} of {total} requests reached a 2xx")
    return problems


if __name__ == "__main__":
    sys.exit(main())
