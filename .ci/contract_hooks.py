"""What the document cannot say of one running server: the ids of its vocabulary, its model's name, and what a
grammar is."""

import schemathesis

MODEL = "default"
VOCABULARY = 49152
GRAMMARS = ['root ::= [a-z ]+', 'root ::= " yes" | " no"', 'root ::= "(" root* ")"', '']


@schemathesis.hook
def map_body(context, body):
    """Ids become ids of the vocabulary, and most grammars become some; the rest stays as it was generated."""
    if isinstance(body, dict):
        for field in ("tokens", "prompt", "penalty_prompt"):
            if isinstance(body.get(field), list):
                body[field] = [in_vocabulary(value) for value in body[field]]
        biases = body.get("logit_bias")
        for bias in biases if isinstance(biases, list) else []:
            if isinstance(bias, list) and bias:
                bias[0] = in_vocabulary(bias[0])
        grammar = body.get("grammar")
        if isinstance(grammar, str) and sum(map(ord, grammar)) % 8:
            body["grammar"] = GRAMMARS[sum(map(ord, grammar)) % len(GRAMMARS)]
    return body


def in_vocabulary(value):
    is_id = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value % VOCABULARY if is_id else value


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Every other name is that of the model that is served."""
    name = (path_parameters or {}).get("model")
    if isinstance(name, str) and len(name) % 2:
        path_parameters["model"] = MODEL
    return path_parameters
