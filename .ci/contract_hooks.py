"""Hooks that adapt schemathesis's generated requests to the running server in ways that the OpenAPI document cannot express:
token ids, the model's name, valid grammars, and fields that depend on each other."""

import re

import schemathesis

MODEL = "default"
FILE = "slot.bin"
VOCABULARY = 49152
SLOTS = 4
EMBEDDING_SIZE = 576
COMPLETIONS = ("/completion", "/completions")
EMBEDDINGS = ("/embedding", "/embeddings")
REQUIRED_BLOCK_FIELDS = {
    "text": {"text": "a"},
    "tool_use": {"id": "a", "name": "b", "input": {}},
    "tool_result": {"tool_use_id": "a"},
    "thinking": {},
    "redacted_thinking": {},
}
SCHEMAS = [{"type": "object"}, {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}]
STORED = []  # ids of stored responses
MAX_STORED = 128
CONSTRAINTS = {
    "grammar": ['root ::= [a-z ]+', 'root ::= " yes" | " no"', 'root ::= "(" root* ")"', ''],
    "regex": ['[a-z ]+', ' [0-9]{3}', '(ab|c)*', ''],
    "lark": ['start: "a" word\nword: /[a-z]+/', 'start: ("yes" | "no")', ''],
    "json_schema": [{}, {"type": "object"}, {"type": "array", "items": {"enum": [1, None]}}, None],
}


@schemathesis.hook
def map_body(context, body):
    """Maps token ids into the vocabulary and most constraints to valid ones, and repairs other dependent fields."""
    if isinstance(body, dict):
        for field in ("tokens", "prompt", "penalty_prompt", "content", "input"):
            if isinstance(body.get(field), list):
                body[field] = [in_vocabulary(value) for value in body[field]]
        biases = body.get("logit_bias")
        if isinstance(biases, dict):
            ids = {str(int(key) % VOCABULARY) if key.isdecimal() else key: bias for key, bias in biases.items()}
            body["logit_bias"] = ids
        for bias in biases if isinstance(biases, list) else []:
            if isinstance(bias, list) and bias:
                bias[0] = in_vocabulary(bias[0])
        for field in ("n", "best_of"):
            if is_count(body.get(field)) and body[field] > SLOTS:
                body[field] = int(body[field]) % SLOTS + 1
        if context.operation.path == "/v1/completions":
            fix_completion(body)
        if is_count(body.get("dimensions")) and body["dimensions"] > 0:
            body["dimensions"] = EMBEDDING_SIZE
        if context.operation.path in COMPLETIONS and not any(body.get(field) for field in ("prompt", "system_prompt")):
            body["prompt"] = "a"
        if context.operation.path in EMBEDDINGS and not any(body.get(field) for field in ("content", "input")):
            body["content"] = "a"
        if isinstance(body.get("messages"), list) and (len(repr(body)) < 200 or len(repr(body)) % 8):
            fix_messages(body)
            fix_tools(body)
        if context.operation.path.removeprefix("/v1").startswith("/responses") and len(repr(body)) % 8:
            fix_response_input(body)
            fix_tools(body)
        fix_constraints(body)
        shorten_system_prompt(body)
        fix_thinking(body)
        if context.operation.path.removeprefix("/v1").startswith("/rerank"):
            fix_rerank(body)
        if context.operation.path == "/slots/{id_slot}" and len(repr(body)) % 8:
            body["filename"] = FILE
        if isinstance(body.get("lora"), list):
            body["lora"] = []  # the server has no adapters
    elif context.operation.path == "/lora-adapters" and isinstance(body, list):
        return []
    return body


def fix_rerank(body):
    """Keeps either `documents` or the fields of Text Embeddings Inference (`texts`)."""
    if isinstance(body.get("documents"), list) and len(repr(body)) % 2:
        for field in ("texts", "return_text", "raw_scores", "truncate"):
            body.pop(field, None)
    elif isinstance(body.get("texts"), list):
        for field in ("documents", "top_n", "return_documents"):
            body.pop(field, None)
    elif not isinstance(body.get("documents"), list):
        body["documents"] = ["a"]


def fix_messages(body):
    """Fills empty messages, keeps tool calls only in assistant messages, and appends a user message."""
    messages = [message for message in body["messages"] if isinstance(message, dict)]
    for message in messages:
        if message.get("role") != "assistant":
            message.pop("tool_calls", None)
        blocks = message.get("content")
        for block in blocks if isinstance(blocks, list) else []:
            if isinstance(block, dict):
                fix_block(block, message.get("role"))
        if not (blocks or message.get("tool_calls")):
            message["content"] = "a"
    if body["messages"]:
        body["messages"].append({"role": "user", "content": "b"})


def fix_block(block, role):
    """Gives a content block a type that its message may have, and the fields that the type requires."""
    kind = block.get("type")
    misplaced = (role, kind) in (("user", "tool_use"), ("assistant", "tool_result"))
    if misplaced or not isinstance(kind, str) or kind not in REQUIRED_BLOCK_FIELDS:
        block["type"] = "text"
    for field, value in REQUIRED_BLOCK_FIELDS[block["type"]].items():
        block.setdefault(field, value)


def fix_response_input(body):
    """Completes input items, pairs function calls with outputs, and refers only to stored responses."""
    items = body.get("input")
    if isinstance(items, list):
        body["input"] = [fixed for item in items if isinstance(item, dict) for fixed in complete_items(item)]
    if not body.get("input"):
        body["input"] = "a"
    if "previous_response_id" in body:
        body["previous_response_id"] = STORED[len(repr(body)) % len(STORED)] if STORED else None
    if is_count(body.get("top_logprobs")) and body["top_logprobs"] > 0:
        body["include"] = ["message.output_text.logprobs"]
    text = body.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    if isinstance(form, dict) and form.get("type") == "json_schema":
        form.update(name="a", schema=SCHEMAS[0])


def complete_items(item):
    """Returns the completed input item; the output of a function call follows the call."""
    kind = item.get("type")
    if kind == "function_call":
        item.update(call_id="a", name="b", arguments="{}")
        return [item, {"type": "function_call_output", "call_id": "a", "output": "c"}]
    if kind == "reasoning":
        for field in ("content", "summary"):
            item[field] = [{"type": "reasoning_text", "text": "a"}]
        return [item]
    item.update(type="message", role=item.get("role") or "user")
    parts = item.get("content")
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, dict):
            part.update(type="input_text", text=part.get("text") or "a")
    if not parts:
        item["content"] = "a"
    return [item]


def fix_tools(body):
    """Gives tools distinct names and valid schemas, and removes fields that cannot be combined with tools."""
    tools = body.get("tools")
    tools = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    for number, tool in enumerate(tools):
        function = tool.get("function", tool)
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            function["name"] = function["name"][:60] + str(number)
            for schema in ("parameters", "input_schema"):
                if schema in function:
                    function[schema] = SCHEMAS[number % len(SCHEMAS)]
    if not tools or not isinstance(body.get("tool_choice"), str):
        body.pop("tool_choice", None)
    if tools:
        for field in ("grammar", "regex", "lark"):
            body.pop(field, None)


def fix_completion(body):
    """Makes `n` and `best_of` consistent in most requests, and removes `suffix`, which the default model does not support."""
    body.pop("suffix", None)
    if isinstance(body.get("prompt"), list) and len(body["prompt"]) > 1:
        body.pop("best_of", None)
        body.pop("n", None)
    if is_count(body.get("best_of")) and not body.get("stream") and is_count(body.get("n")):
        body["best_of"] = max(body["best_of"], body["n"])
    elif len(repr(body)) % 8:
        body.pop("best_of", None)


def shorten_system_prompt(body):
    """A system prompt applies to all later requests, and a long one would leave them no context."""
    system = body.get("system_prompt")
    if isinstance(system, str):
        body["system_prompt"] = system[:8]
    elif isinstance(system, dict) and isinstance(system.get("prompt"), str):
        system["prompt"] = system["prompt"][:8]


def fix_thinking(body):
    """Makes the thinking budget smaller than `max_tokens` in most requests, as Anthropic's API requires."""
    thinking, max_tokens = body.get("thinking"), body.get("max_tokens")
    if isinstance(thinking, dict) and thinking.get("type") == "enabled" and is_count(max_tokens) and len(repr(body)) % 8:
        thinking["budget_tokens"] = 1
        body["max_tokens"] = max_tokens + 1


def fix_constraints(body):
    """In most requests, keeps only one constraint and replaces it with a valid one."""
    given = [field for field in CONSTRAINTS if field in body]
    chance = sum(map(ord, repr([body[field] for field in given])))
    if chance % 8 == 0:
        return
    for field in given:
        del body[field]
    if given:
        field = given[chance % len(given)]
        body[field] = CONSTRAINTS[field][chance % len(CONSTRAINTS[field])]


def in_vocabulary(value):
    if isinstance(value, list):
        return [in_vocabulary(part) for part in value]
    return value % VOCABULARY if is_count(value) else value


def is_count(value):
    """Whether the value is a non-negative integer; JSON Schema includes floats such as 5.0."""
    whole = isinstance(value, int) or isinstance(value, float) and value.is_integer()
    return whole and not isinstance(value, bool) and value >= 0


@schemathesis.hook
def map_query(context, query):
    """Makes most slot actions valid, and removes most `after` cursors."""
    if context.operation.path == "/slots/{id_slot}" and not query:
        return {"action": "save"}
    if context.operation.path == "/v1/responses/{response_id}/input_items" and query and len(repr(query)) % 8:
        query.pop("after", None)
    if query and isinstance(query.get("action"), str) and len(query["action"]) % 4:
        query["action"] = ["save", "restore", "erase"][len(query["action"]) % 3]
    return query


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Makes about half of the model names and most slot ids and response ids valid."""
    parameters = path_parameters or {}
    name, slot = parameters.get("model"), parameters.get("id_slot")
    if isinstance(name, str) and len(name) % 2:
        parameters["model"] = MODEL
    if isinstance(slot, str) and len(slot) % 4:
        parameters["id_slot"] = str(len(slot) % 4)
    response = parameters.get("response_id")
    if isinstance(response, str) and len(response) % 4 and STORED:
        deletes = context.operation.method.upper() == "DELETE"
        parameters["response_id"] = STORED.pop() if deletes else STORED[len(response) % len(STORED)]
    return path_parameters


@schemathesis.hook
def after_call(context, case, response):
    """Records the ids of stored responses."""
    if case.operation.path == "/v1/responses" and response.status_code == 200:
        text = response.content.decode("utf-8", "replace")
        found = re.search(r'"id":"(resp_[0-9a-f]{32})"', text)
        if found and '"store":true' in text:
            STORED.append(found.group(1))
            del STORED[:-MAX_STORED]
