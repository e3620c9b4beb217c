"""LiteLLM against the server at $ORTOLAN with its OpenAI and Anthropic providers; only address, key and model are configured."""

import asyncio
import json
import os
import unittest

import litellm
import pydantic

QUESTION = [{"role": "user", "content": "Name the capital of Italy."}]
GREEDY = {"messages": QUESTION, "max_tokens": 24, "temperature": 0}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALL = {"messages": QUESTION, "tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 80}


class Bird(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(max_length=12)
    can_sing: bool


class Chat:
    def complete(self, **request):
        return litellm.completion(**{**self.server, **request})

    def check_response(self, response):
        self.assertIn("Rome", response.choices[0].message.content)
        self.assertEqual((response.choices[0].finish_reason, response.model), ("stop", "tiny"))
        self.assertEqual((response.usage.prompt_tokens, response.usage.completion_tokens), (36, 7))

    def test_chat_completion(self):
        self.check_response(self.complete(**GREEDY))

    def test_async_chat_completion(self):
        self.check_response(asyncio.run(litellm.acompletion(**self.server, **GREEDY)))

    def test_streamed_chat_completion(self):
        chunks = list(self.complete(**GREEDY, stream=True, stream_options={"include_usage": True}))
        self.assertGreater(len(chunks), 7)
        self.check_response(litellm.stream_chunk_builder(chunks))

    def test_tool_call_and_result(self):
        response = self.complete(**CALL)
        message = response.choices[0].message
        (call,) = message.tool_calls
        self.assertEqual((response.choices[0].finish_reason, call.function.name), ("tool_calls", "get_weather"))
        self.assertEqual(json.loads(call.function.arguments).keys(), {"city"})
        result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
        messages = [*QUESTION, message, result]
        response = self.complete(messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=8, temperature=0)
        self.assertIsNone(response.choices[0].message.tool_calls)
        self.assertTrue(response.choices[0].message.content)

    def test_streamed_tool_call(self):
        response = litellm.stream_chunk_builder(list(self.complete(**CALL, stream=True)))
        (call,) = response.choices[0].message.tool_calls
        self.assertEqual((response.choices[0].finish_reason, call.function.name), ("tool_calls", "get_weather"))
        self.assertEqual(json.loads(call.function.arguments).keys(), {"city"})

    def test_truncated_tool_call(self):
        response = self.complete(**{**CALL, "max_tokens": 24}, temperature=0)
        (call,) = response.choices[0].message.tool_calls
        self.assertEqual((response.choices[0].finish_reason, call.function.name), ("length", "get_weather"))

    def test_response_format(self):
        response = self.complete(messages=QUESTION, response_format=Bird, max_tokens=80, temperature=0)
        Bird.model_validate_json(response.choices[0].message.content)

    def check_error(self, kind, **change):
        with self.assertRaises(kind) as caught:
            self.complete(**{**GREEDY, **change})
        self.assertIs(type(caught.exception), kind)

    def test_invalid_parameter(self):
        self.check_error(litellm.BadRequestError, temperature=3)

    def test_context_window_exceeded(self):
        self.check_error(litellm.ContextWindowExceededError, messages=[{"role": "user", "content": "word " * 9000}])

    def test_invalid_api_key(self):
        self.check_error(litellm.AuthenticationError, api_key="guessed")

    def test_unknown_model(self):
        self.check_error(litellm.NotFoundError, model=self.server["model"] + "-other")


class OpenAI(Chat, unittest.TestCase):
    server = {"model": "openai/tiny", "api_base": os.environ["ORTOLAN"] + "/v1", "api_key": "secret"}

    def test_embeddings(self):
        response = litellm.embedding(**self.server, input=["rain", "snow"])
        self.assertEqual([(item["index"], len(item["embedding"])) for item in response.data], [(0, 576), (1, 576)])
        self.assertEqual(response.usage.prompt_tokens, response.usage.total_tokens)

    def test_text_completion(self):
        request = {**self.server, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        response = litellm.text_completion(**request)
        self.assertIn("Paris", response.choices[0].text)
        self.assertEqual((response.usage.completion_tokens, response.choices[0].finish_reason), (8, "length"))
        pieces = [chunk.choices[0].text or "" for chunk in litellm.text_completion(**request, stream=True)]
        self.assertEqual("".join(pieces), response.choices[0].text)

    def test_models(self):
        models = litellm.get_valid_models(True, "openai", api_base=self.server["api_base"], api_key="secret")
        self.assertEqual(models, ["tiny"])


class Anthropic(Chat, unittest.TestCase):
    server = {"model": "anthropic/tiny", "api_base": os.environ["ORTOLAN"], "api_key": "secret"}


if __name__ == "__main__":
    unittest.main()
