"""What the document cannot say of one running server: the ids of its vocabulary, and its model's name."""

import schemathesis

MODEL = "default"
VOCABULARY = 49152


@schemathesis.hook
def map_body(context, body):
    """Ids become ids of the vocabulary; everything else stays as it was generated."""
    if isinstance(body, dict):
        for field in ("tokens", "prompt"):
            if isinstance(body.get(field), list):
                body[field] = [in_vocabulary(value) for value in body[field]]
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
