"""LiteLLM against the server at ORTOLAN, by OpenAI's and by Anthropic's surface: nothing is set but address, key and model."""

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
    def ask(self, **asked):
        return litellm.completion(**{**self.server, **asked})

    def holds(self, answer):
        self.assertIn("Rome", answer.choices[0].message.content)
        self.assertEqual((answer.choices[0].finish_reason, answer.model), ("stop", "tiny"))
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (36, 7))

    def test_whole(self):
        self.holds(self.ask(**GREEDY))

    def test_awaited(self):
        self.holds(asyncio.run(litellm.acompletion(**self.server, **GREEDY)))

    def test_streamed(self):
        chunks = list(self.ask(**GREEDY, stream=True, stream_options={"include_usage": True}))
        self.assertGreater(len(chunks), 7)
        self.holds(litellm.stream_chunk_builder(chunks))

    def test_a_tool_is_called_and_answered(self):
        answer = self.ask(**CALL)
        message = answer.choices[0].message
        (call,) = message.tool_calls
        self.assertEqual((answer.choices[0].finish_reason, call.function.name), ("tool_calls", "get_weather"))
        self.assertEqual(json.loads(call.function.arguments).keys(), {"city"})
        result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
        messages = [*QUESTION, message, result]
        answer = self.ask(messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=8, temperature=0)
        self.assertIsNone(answer.choices[0].message.tool_calls)
        self.assertTrue(answer.choices[0].message.content)

    def test_a_tool_is_called_in_pieces(self):
        answer = litellm.stream_chunk_builder(list(self.ask(**CALL, stream=True)))
        (call,) = answer.choices[0].message.tool_calls
        self.assertEqual((answer.choices[0].finish_reason, call.function.name), ("tool_calls", "get_weather"))
        self.assertEqual(json.loads(call.function.arguments).keys(), {"city"})

    def test_a_call_that_is_cut(self):
        answer = self.ask(**{**CALL, "max_tokens": 24}, temperature=0)
        (call,) = answer.choices[0].message.tool_calls
        self.assertEqual((answer.choices[0].finish_reason, call.function.name), ("length", "get_weather"))

    def test_parsed(self):
        answer = self.ask(messages=QUESTION, response_format=Bird, max_tokens=80, temperature=0)
        Bird.model_validate_json(answer.choices[0].message.content)

    def check(self, kind, **change):
        with self.assertRaises(kind) as caught:
            self.ask(**{**GREEDY, **change})
        self.assertIs(type(caught.exception), kind)

    def test_what_is_wrong(self):
        self.check(litellm.BadRequestError, temperature=3)

    def test_what_is_too_long(self):
        self.check(litellm.ContextWindowExceededError, messages=[{"role": "user", "content": "word " * 9000}])

    def test_who_has_no_key(self):
        self.check(litellm.AuthenticationError, api_key="guessed")

    def test_what_is_not_there(self):
        self.check(litellm.NotFoundError, model=self.server["model"] + "-other")


class OpenAI(Chat, unittest.TestCase):
    server = {"model": "openai/tiny", "api_base": os.environ["ORTOLAN"] + "/v1", "api_key": "secret"}

    def test_embeddings(self):
        answer = litellm.embedding(**self.server, input=["rain", "snow"])
        self.assertEqual([(each["index"], len(each["embedding"])) for each in answer.data], [(0, 576), (1, 576)])
        self.assertEqual(answer.usage.prompt_tokens, answer.usage.total_tokens)

    def test_texts(self):
        ask = {**self.server, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        answer = litellm.text_completion(**ask)
        self.assertIn("Paris", answer.choices[0].text)
        self.assertEqual((answer.usage.completion_tokens, answer.choices[0].finish_reason), (8, "length"))
        pieces = [chunk.choices[0].text or "" for chunk in litellm.text_completion(**ask, stream=True)]
        self.assertEqual("".join(pieces), answer.choices[0].text)

    def test_models(self):
        found = litellm.get_valid_models(True, "openai", api_base=self.server["api_base"], api_key="secret")
        self.assertEqual(found, ["tiny"])


class Anthropic(Chat, unittest.TestCase):
    server = {"model": "anthropic/tiny", "api_base": os.environ["ORTOLAN"], "api_key": "secret"}


if __name__ == "__main__":
    unittest.main()
