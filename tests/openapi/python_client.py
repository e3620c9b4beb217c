"""The client that openapi-python-client generated (package `generated` in the folder $PACKAGES) against the server at
$ORTOLAN: it has every operation of the document (file $DOCUMENT), and the main operations work."""

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
        expected = {
            operation["operationId"]
            for item in document["paths"].values()
            for operation in item.values()
        }
        packages = pkgutil.walk_packages(generated.api.__path__, "generated.api.")
        modules = {info.name: importlib.import_module(info.name) for info in packages}
        actual = {name.split(".")[-1] for name, module in modules.items() if hasattr(module, "sync_detailed")}
        self.assertEqual(expected - actual, set())
        self.assertGreater(len(actual), 30)

    def test_every_model_can_be_imported(self):
        for name in models.__all__:
            self.assertTrue(hasattr(models, name), name)
        self.assertIn("ChatCompletionRequest", models.__all__)

    def test_chat_completion(self):
        request = body(
            models.ChatCompletionRequest,
            model="any", messages=[QUESTION], max_tokens=24, temperature=0, store=False,
        )
        response = chat_completion.sync(client=CLIENT, body=request)
        self.assertIsInstance(response, models.ChatCompletion)
        self.assertIn("Rome", response.choices[0].message.content)
        self.assertEqual(response.choices[0].finish_reason, "stop")

    def test_chat_completion_with_all_defaults_of_the_document(self):
        message = models.ChatMessage(role=models.ChatMessageRole.USER, content=QUESTION["content"])
        request = models.ChatCompletionRequest(messages=[message], max_tokens=24, temperature=0.0)
        response = chat_completion.sync(client=CLIENT, body=request)
        self.assertIsInstance(response, models.ChatCompletion, response)
        self.assertIn("Rome", response.choices[0].message.content)

    def test_errors_are_parsed(self):
        request = body(models.ChatCompletionRequest, model="any", messages=[QUESTION], temperature=3)
        response = chat_completion.sync(client=CLIENT, body=request)
        self.assertIsInstance(response, models.Error)
        self.assertEqual(response.error.param, "temperature")

    def test_responses_api(self):
        request = body(
            models.ResponsesRequest,
            model="any", input="Name the capital of Italy.", max_output_tokens=24, temperature=0,
        )
        response = create_response.sync(client=CLIENT, body=request)
        self.assertEqual(response.status, "completed")
        self.assertIn("Rome", response.output[0].content[0].text)

    def test_messages_api(self):
        request = body(
            models.MessagesRequest, model="any", messages=[QUESTION], max_tokens=24, temperature=0
        )
        response = create_message.sync(client=CLIENT, body=request)
        self.assertIn("Rome", response.content[0].text)

    def test_completion_tokenize_detokenize_and_embeddings(self):
        request = body(
            models.CompletionRequest, prompt="The capital of France is", n_predict=8, temperature=0
        )
        response = completion.sync(client=CLIENT, body=request)
        self.assertIn("Paris", response.content)
        tokens = tokenize.sync(client=CLIENT, body=body(models.TokenizeRequest, content="Hello world"))
        text = detokenize.sync(client=CLIENT, body=body(models.DetokenizeRequest, tokens=tokens.tokens))
        self.assertEqual(text.content, "Hello world")
        request = body(models.EmbeddingsRequest, model="any", input=["rain", "snow"])
        response = embeddings.sync(client=CLIENT, body=request)
        self.assertEqual([len(item.embedding) for item in response.data], [576, 576])

    def test_health_and_models(self):
        self.assertEqual(health.sync(client=CLIENT).status, "ok")
        self.assertEqual(len(list_models.sync(client=CLIENT).data), 1)


if __name__ == "__main__":
    unittest.main()
