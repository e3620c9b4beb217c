"""Writes mcp.json: the input schemas of the tools of public MCP servers.

    npm install --ignore-scripts   (package.json)
    pip install mcp-server-fetch mcp-server-time mcp-server-git
    python mcp_servers.py node_modules/.bin BIN_OF_THE_VIRTUAL_ENVIRONMENT > mcp.json

Annotations such as descriptions are removed, because they constrain nothing. For each server at most
MAX_TOOLS_PER_SERVER schemas are kept, the longest ones.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

MAX_TOOLS_PER_SERVER = 8
ANNOTATIONS = {"description", "title", "examples", "markdownDescription"}


def servers(node, python, folder):
    yield "filesystem", [node / "mcp-server-filesystem", folder], {}
    yield "memory", [node / "mcp-server-memory"], {}
    yield "everything", [node / "mcp-server-everything"], {}
    yield "sequential_thinking", [node / "mcp-server-sequential-thinking"], {}
    yield "github", [node / "mcp-server-github"], {"GITHUB_PERSONAL_ACCESS_TOKEN": "x"}
    yield "slack", [node / "mcp-server-slack"], {"SLACK_BOT_TOKEN": "x", "SLACK_TEAM_ID": "x"}
    yield "postgres", [node / "mcp-server-postgres", "postgresql://127.0.0.1/x"], {}
    yield "puppeteer", [node / "mcp-server-puppeteer"], {}
    yield "playwright", [node / "playwright-mcp"], {}
    yield "notion", [node / "notion-mcp-server"], {"NOTION_TOKEN": "ntn_x"}
    yield "sentry", [node / "sentry-mcp", "--access-token=x"], {"OPENAI_API_KEY": "x"}
    yield "fetch", [python / "mcp-server-fetch"], {}
    yield "time", [python / "mcp-server-time", "--local-timezone=UTC"], {}
    yield "git", [python / "mcp-server-git"], {}


def tools(command, environment):
    process = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | environment, text=True,
    )

    def send(message):
        process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
        process.stdin.flush()

    def receive(number):
        for line in process.stdout:
            message = json.loads(line) if line.startswith("{") else {}
            if message.get("id") == number and "method" not in message:
                return message
        raise SystemExit(f"{command[0]}: no response")

    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    try:
        send({"id": 1, "method": "initialize", "params": client})
        receive(1)
        send({"method": "notifications/initialized"})
        send({"id": 2, "method": "tools/list", "params": {}})
        return receive(2)["result"]["tools"]
    finally:
        process.terminate()
        process.wait()


def strip_annotations(schema, names=False):
    """The schema without annotations. With `names`, the keys of `schema` are property names instead of keywords."""
    if isinstance(schema, list):
        return [strip_annotations(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: strip_annotations(value, not names and key in ("properties", "$defs", "definitions"))
        for key, value in schema.items()
        if names or key not in ANNOTATIONS
    }



entries = []
with tempfile.TemporaryDirectory() as folder:
    for server, command, environment in servers(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), folder):
        listed = [(tool["name"], strip_annotations(tool["inputSchema"])) for tool in tools(command, environment)]
        listed.sort(key=lambda tool: -len(json.dumps(tool[1])))
        print(f"{server}: {len(listed)} tools", file=sys.stderr)
        for name, schema in listed[:MAX_TOOLS_PER_SERVER]:
            entries.append(json.dumps({"name": f"{server}_{name}", "schema": schema}))
sys.stdout.write("[\n" + ",\n".join(entries) + "\n]\n")
