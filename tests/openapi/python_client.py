"""The client that openapi-python-client generated (the package `generated` below the folder PACKAGES) against the
server at ORTOLAN, whose document is the file DOCUMENT: every operation is there, and the main ones work."""

import importlib
import json
import os
import pkgutil
import sys
import unittest

sys.path.insert(0, os.environ["PACKAGES"])

import generated.api  # noqa: E402
from generated import Client, models  # noqa: E402
from generated.api.anthropic import create_message  # noqa: E402
from generated.api.native import completion, detokenize, tokenize  # noqa: E402
from generated.api.open_ai import chat_completion, create_response, embeddings  # noqa: E402
from generated.api.open_ai import models as list_models  # noqa: E402
from generated.api.server import health  # noqa: E402

CLIENT = Client(base_url=os.environ["ORTOLAN"], raise_on_unexpected_status=True, timeout=300)
QUESTION = {"role": "user", "content": "Name the capital of Italy."}


def body(kind, /, **fields):
    return kind.from_dict(fields)


class Generated(unittest.TestCase):
    def test_every_operation_is_generated(self):
        with open(os.environ["DOCUMENT"], encoding="utf-8") as file:
            document = json.load(file)
        wanted = {
            operation["operationId"]
            for item in document["paths"].values()
            for operation in item.values()
        }
        packages = pkgutil.walk_packages(generated.api.__path__, "generated.api.")
        modules = {info.name: importlib.import_module(info.name) for info in packages}
        found = {name.split(".")[-1] for name, module in modules.items() if hasattr(module, "sync_detailed")}
        self.assertEqual(wanted - found, set())
        self.assertGreater(len(found), 30)

    def test_every_model_can_be_imported(self):
        for name in models.__all__:
            self.assertTrue(hasattr(models, name), name)
        self.assertIn("ChatCompletionRequest", models.__all__)

    def test_a_chat(self):
        request = body(
            models.ChatCompletionRequest,
            model="any", messages=[QUESTION], max_tokens=24, temperature=0, store=False,
        )
        answer = chat_completion.sync(client=CLIENT, body=request)
        self.assertIsInstance(answer, models.ChatCompletion)
        self.assertIn("Rome", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_a_chat_with_every_default_of_the_document_sent(self):
        message = models.ChatMessage(role=models.ChatMessageRole.USER, content=QUESTION["content"])
        request = models.ChatCompletionRequest(messages=[message], max_tokens=24, temperature=0.0)
        answer = chat_completion.sync(client=CLIENT, body=request)
        self.assertIsInstance(answer, models.ChatCompletion, answer)
        self.assertIn("Rome", answer.choices[0].message.content)

    def test_an_error_is_read(self):
        request = body(models.ChatCompletionRequest, model="any", messages=[QUESTION], temperature=3)
        answer = chat_completion.sync(client=CLIENT, body=request)
        self.assertIsInstance(answer, models.Error)
        self.assertEqual(answer.error.param, "temperature")

    def test_a_response(self):
        request = body(
            models.ResponsesRequest,
            model="any", input="Name the capital of Italy.", max_output_tokens=24, temperature=0,
        )
        answer = create_response.sync(client=CLIENT, body=request)
        self.assertEqual(answer.status, "completed")
        self.assertIn("Rome", answer.output[0].content[0].text)

    def test_a_message(self):
        request = body(
            models.MessagesRequest, model="any", messages=[QUESTION], max_tokens=24, temperature=0
        )
        answer = create_message.sync(client=CLIENT, body=request)
        self.assertIn("Rome", answer.content[0].text)

    def test_a_completion_tokens_and_embeddings(self):
        request = body(
            models.CompletionRequest, prompt="The capital of France is", n_predict=8, temperature=0
        )
        answer = completion.sync(client=CLIENT, body=request)
        self.assertIn("Paris", answer.content)
        tokens = tokenize.sync(client=CLIENT, body=body(models.TokenizeRequest, content="Hello world"))
        text = detokenize.sync(client=CLIENT, body=body(models.DetokenizeRequest, tokens=tokens.tokens))
        self.assertEqual(text.content, "Hello world")
        request = body(models.EmbeddingsRequest, model="any", input=["rain", "snow"])
        answer = embeddings.sync(client=CLIENT, body=request)
        self.assertEqual([len(item.embedding) for item in answer.data], [576, 576])

    def test_the_state_of_the_server(self):
        self.assertEqual(health.sync(client=CLIENT).status, "ok")
        self.assertEqual(len(list_models.sync(client=CLIENT).data), 1)


if __name__ == "__main__":
    unittest.main()
