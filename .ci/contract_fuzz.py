"""Starts the server, sends it requests that schemathesis generates from the OpenAPI document, and checks the responses.

Fails on a 5xx response, on an undocumented status, on a body that does not match its schema, and if less than
MINIMUM_ACCEPTED of an operation's requests get a 2xx, because then the document allows requests that the server
rejects.
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

MAX_EXAMPLES = int(os.environ.get("EXAMPLES", "200"))  # per operation
ONLY = os.environ.get("ONLY")  # regular expression: test only the paths that it matches
RESPONSE_TIMEOUT_SECONDS = 60  # generous: this test does not check latency
KEY = "sk-fuzz"
MAX_TOKENS = 16  # per response: the test checks the contract, not the model
MINIMUM_ACCEPTED = 0.3
START_TIMEOUT_SECONDS = 120
# The default model has no infill tokens: valid requests get 501, which would count as a server error. The scenarios test this
# route with another model.
UNSUPPORTED_PATH = "/infill"
# Operations that only return errors, and the document itself, which schemathesis reads without counting the request.
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
    command = [binary, "-m", model, "--alias", contract_hooks.MODEL, "--port", "0", "-n", str(MAX_TOKENS)]
    command += ["--ctx-size", "2048", "--parallel", "4", "--log-format", "json", "--api-key", KEY]
    command += ["--metrics", "--embedding", "--props"]
    with tempfile.TemporaryDirectory() as slots:
        return run(command + ["--slot-save-path", slots])


def run(command):
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        address = address_of(server)
        # The log must be read, so that the server does not block on a full pipe.
        threading.Thread(target=collections.deque, args=(server.stderr, 0), daemon=True).start()
        wait_until_loaded(address)
        problems = fuzz(address)
        if server.poll() is not None:
            problems.append(f"the server exited with exit code {server.returncode}")
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
    raise SystemExit(f"contract-fuzz: the server exited with exit code {server.wait()} before it listened")


def wait_until_loaded(address):
    end = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=10).close()
            return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise SystemExit(f"contract-fuzz: /health responded with {error.code}: {error.read()!r}") from error
        time.sleep(0.2)
    raise SystemExit(f"contract-fuzz: the model was not loaded after {START_TIMEOUT_SECONDS} seconds")


def fuzz(address):
    schemathesis = Path(sys.executable).with_name("schemathesis")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "requests.har"
        command = [str(schemathesis), "run", f"{address}/openapi.json", "--checks", ",".join(CHECKS)]
        command += ["--phases", "examples,fuzzing", "--max-examples", str(MAX_EXAMPLES)]
        command += ["--exclude-path", UNSUPPORTED_PATH, "--request-timeout", str(RESPONSE_TIMEOUT_SECONDS)]
        if ONLY:
            command += ["--include-path-regex", ONLY]
        command += ["--generation-deterministic", "--header", f"Authorization: Bearer {KEY}"]
        command += ["--suppress-health-check", "all", "--continue-on-failure", "--no-color"]
        command += ["--report", "har", "--report-har-path", report]
        problems = []
        # schemathesis writes a cache to its working directory and imports the hooks from PYTHONPATH.
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": contract_hooks.__name__}
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parent)
        if subprocess.run(command, check=False, cwd=folder, env=environment).returncode != 0:
            problems.append("schemathesis found responses that violate the contract: see above")
        if not report.exists():
            return problems
        entries = json.loads(report.read_text(encoding="utf-8"))["log"]["entries"]
    return problems + check_acceptance(document(address), entries)


def document(address):
    with urllib.request.urlopen(f"{address}/openapi.json", timeout=10) as response:
        return json.load(response)


def check_acceptance(description, entries):
    """Counts the 2xx responses of each operation and reports operations with too few."""
    operations = {}
    for path, item in description["paths"].items():
        pattern = re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]*", re.escape(path)))
        for method in item.keys() & {"get", "post", "put", "delete", "patch"}:
            operations[method.upper(), path] = pattern
    sent, accepted = collections.Counter(), collections.Counter()
    for entry in entries:
        method, path = entry["request"]["method"], urlsplit(entry["request"]["url"]).path
        # An exact path takes precedence over a path template.
        matching = [key for key, pattern in operations.items() if key[0] == method and pattern.fullmatch(path)]
        for operation in sorted(matching, key=lambda key: "{" in key[1])[:1]:
            sent[operation] += 1
            accepted[operation] += 200 <= entry["response"]["status"] < 300
    problems = []
    for operation in sorted(operations):
        if ONLY and not re.search(ONLY, operation[1]):
            continue
        name, total, successes = " ".join(operation), sent[operation], accepted[operation]
        print(f"contract-fuzz: {name}: {successes} of {total} requests got a 2xx")
        if operation[1] == UNSUPPORTED_PATH or name in NEVER_ACCEPTED:
            continue
        if successes < MINIMUM_ACCEPTED * max(total, 1):
            problems.append(f"{name}: only {successes} of {total} requests got a 2xx")
    return problems


if __name__ == "__main__":
    sys.exit(main())
