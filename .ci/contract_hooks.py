"""What the document cannot say of one running server: the ids of its vocabulary, its model's name, what a grammar is,
and that one of two fields is there."""

import re

import schemathesis

MODEL = "default"
FILE = "slot.bin"
VOCABULARY = 49152
PLACES = 4
WIDTH = 576
COMPLETIONS = ("/completion", "/completions")
EMBEDDINGS = ("/embedding", "/embeddings")
BLOCK_NEEDS = {
    "text": {"text": "a"},
    "tool_use": {"id": "a", "name": "b", "input": {}},
    "tool_result": {"tool_use_id": "a"},
    "thinking": {},
    "redacted_thinking": {},
}
SCHEMAS = [{"type": "object"}, {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}]
KEPT = []  # ids of responses
MOST_KEPT = 128
CONSTRAINTS = {
    "grammar": ['root ::= [a-z ]+', 'root ::= " yes" | " no"', 'root ::= "(" root* ")"', ''],
    "regex": ['[a-z ]+', ' [0-9]{3}', '(ab|c)*', ''],
    "lark": ['start: "a" word\nword: /[a-z]+/', 'start: ("yes" | "no")', ''],
    "json_schema": [{}, {"type": "object"}, {"type": "array", "items": {"enum": [1, None]}}, None],
}


@schemathesis.hook
def map_body(context, body):
    """Ids become ids of the vocabulary, and most of what a text must follow becomes what one can; the rest stays as it was generated."""
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
            if is_count(body.get(field)) and body[field] > PLACES:
                body[field] = int(body[field]) % PLACES + 1
        if context.operation.path == "/v1/completions":
            one_text(body)
        if is_count(body.get("dimensions")) and body["dimensions"] > 0:
            body["dimensions"] = WIDTH
        if context.operation.path in COMPLETIONS and not any(body.get(field) for field in ("prompt", "system_prompt")):
            body["prompt"] = "a"
        if context.operation.path in EMBEDDINGS and not any(body.get(field) for field in ("content", "input")):
            body["content"] = "a"
        if isinstance(body.get("messages"), list) and (len(repr(body)) < 200 or len(repr(body)) % 8):
            converse(body)
            call(body)
        if context.operation.path.removeprefix("/v1").startswith("/responses") and len(repr(body)) % 8:
            respond(body)
            call(body)
        constrain(body)
        shorten(body)
        think(body)
        if context.operation.path.removeprefix("/v1").startswith("/rerank"):
            one_form(body)
        if context.operation.path == "/slots/{id_slot}" and len(repr(body)) % 8:
            body["filename"] = FILE
        if isinstance(body.get("lora"), list):
            body["lora"] = []  # the server has no adapters
    elif context.operation.path == "/lora-adapters" and isinstance(body, list):
        return []
    return body


def one_form(body):
    """Documents, or texts as Text Embeddings Inference has them."""
    if isinstance(body.get("documents"), list) and len(repr(body)) % 2:
        for field in ("texts", "return_text", "raw_scores", "truncate"):
            body.pop(field, None)
    elif isinstance(body.get("texts"), list):
        for field in ("documents", "top_n", "return_documents"):
            body.pop(field, None)
    elif not isinstance(body.get("documents"), list):
        body["documents"] = ["a"]


def converse(body):
    """Who says nothing says something, only the assistant calls, and what it calls is answered."""
    messages = [message for message in body["messages"] if isinstance(message, dict)]
    for message in messages:
        if message.get("role") != "assistant":
            message.pop("tool_calls", None)
        blocks = message.get("content")
        for block in blocks if isinstance(blocks, list) else []:
            if isinstance(block, dict):
                fitting(block, message.get("role"))
        if not (blocks or message.get("tool_calls")):
            message["content"] = "a"
    if body["messages"]:
        body["messages"].append({"role": "user", "content": "b"})


def fitting(block, role):
    """A block of a kind that its message may have, with all that it needs."""
    kind = block.get("type")
    misplaced = (role, kind) in (("user", "tool_use"), ("assistant", "tool_result"))
    if misplaced or not isinstance(kind, str) or kind not in BLOCK_NEEDS:
        block["type"] = "text"
    for field, value in BLOCK_NEEDS[block["type"]].items():
        block.setdefault(field, value)


def respond(body):
    """Items have what they need, calls and what came of them come in pairs, and a response before is one that is kept."""
    items = body.get("input")
    if isinstance(items, list):
        body["input"] = [whole for item in items if isinstance(item, dict) for whole in paired(item)]
    if not body.get("input"):
        body["input"] = "a"
    if "previous_response_id" in body:
        body["previous_response_id"] = KEPT[len(repr(body)) % len(KEPT)] if KEPT else None
    if is_count(body.get("top_logprobs")) and body["top_logprobs"] > 0:
        body["include"] = ["message.output_text.logprobs"]
    text = body.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    if isinstance(form, dict) and form.get("type") == "json_schema":
        form.update(name="a", schema=SCHEMAS[0])


def paired(item):
    """An item of a response's input, a call with what came of it."""
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


def call(body):
    """Functions have different names and schemas that can be held; mostly one is chosen that is there."""
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


def one_text(body):
    """Answers to choose from are mostly no more than are generated, and a gap, which this model cannot fill, is none."""
    body.pop("suffix", None)
    if isinstance(body.get("prompt"), list) and len(body["prompt"]) > 1:
        body.pop("best_of", None)
        body.pop("n", None)
    if is_count(body.get("best_of")) and not body.get("stream") and is_count(body.get("n")):
        body["best_of"] = max(body["best_of"], body["n"])
    elif len(repr(body)) % 8:
        body.pop("best_of", None)


def shorten(body):
    """A system prompt stays for all requests: a long one would leave no room for them."""
    system = body.get("system_prompt")
    if isinstance(system, str):
        body["system_prompt"] = system[:8]
    elif isinstance(system, dict) and isinstance(system.get("prompt"), str):
        system["prompt"] = system["prompt"][:8]


def think(body):
    """A thought is mostly shorter than its message, as Anthropic has it."""
    thinking, most = body.get("thinking"), body.get("max_tokens")
    if isinstance(thinking, dict) and thinking.get("type") == "enabled" and is_count(most) and len(repr(body)) % 8:
        thinking["budget_tokens"] = 1
        body["max_tokens"] = most + 1


def constrain(body):
    """Of the fields that say what a text must follow mostly one stays, and mostly says something that is one."""
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
    """To JSON Schema 5.0 is a count, too."""
    whole = isinstance(value, int) or isinstance(value, float) and value.is_integer()
    return whole and not isinstance(value, bool) and value >= 0


@schemathesis.hook
def map_query(context, query):
    """Most actions are there, and are some."""
    if context.operation.path == "/slots/{id_slot}" and not query:
        return {"action": "save"}
    if context.operation.path == "/v1/responses/{response_id}/input_items" and query and len(repr(query)) % 8:
        query.pop("after", None)
    if query and isinstance(query.get("action"), str) and len(query["action"]) % 4:
        query["action"] = ["save", "restore", "erase"][len(query["action"]) % 3]
    return query


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Every other name is that of the model that is served, most slots are slots, most responses are kept."""
    parameters = path_parameters or {}
    name, slot = parameters.get("model"), parameters.get("id_slot")
    if isinstance(name, str) and len(name) % 2:
        parameters["model"] = MODEL
    if isinstance(slot, str) and len(slot) % 4:
        parameters["id_slot"] = str(len(slot) % 4)
    response = parameters.get("response_id")
    if isinstance(response, str) and len(response) % 4 and KEPT:
        forgets = context.operation.method.upper() == "DELETE"
        parameters["response_id"] = KEPT.pop() if forgets else KEPT[len(response) % len(KEPT)]
    return path_parameters


@schemathesis.hook
def after_call(context, case, response):
    """Remembers which responses are kept."""
    if case.operation.path == "/v1/responses" and response.status_code == 200:
        told = response.content.decode("utf-8", "replace")
        found = re.search(r'"id":"(resp_[0-9a-f]{32})"', told)
        if found and '"store":true' in told:
            KEPT.append(found.group(1))
            del KEPT[:-MOST_KEPT]
