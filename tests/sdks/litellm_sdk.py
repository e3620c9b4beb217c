"""LiteLLM against the server at ORTOLAN, as an OpenAI and as an Anthropic: nothing is set but the address, key and model."""

import asyncio
import json
import os
import unittest

import litellm
import pydantic

OPENAI = {"model": "openai/tiny", "api_base": os.environ["ORTOLAN"] + "/v1", "api_key": "secret"}
ANTHROPIC = {"model": "anthropic/tiny", "api_base": os.environ["ORTOLAN"], "api_key": "secret"}
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


class Chat(unittest.TestCase):
    def each(self):
        for provider in (OPENAI, ANTHROPIC):
            with self.subTest(provider["model"]):
                yield provider

    def holds(self, answer):
        self.assertIn("Rome", answer.choices[0].message.content)
        self.assertEqual((answer.choices[0].finish_reason, answer.model), ("stop", "tiny"))
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (36, 7))

    def test_whole(self):
        for provider in self.each():
            self.holds(litellm.completion(**provider, **GREEDY))

    def test_awaited(self):
        for provider in self.each():
            self.holds(asyncio.run(litellm.acompletion(**provider, **GREEDY)))

    def test_streamed(self):
        for provider in self.each():
            chunks = list(litellm.completion(**provider, **GREEDY, stream=True, stream_options={"include_usage": True}))
            self.assertGreater(len(chunks), 7)
            self.holds(litellm.stream_chunk_builder(chunks))

    def test_a_tool_is_called_and_answered(self):
        for provider in self.each():
            answer = litellm.completion(**provider, **CALL)
            message = answer.choices[0].message
            (call,) = message.tool_calls
            self.assertEqual((answer.choices[0].finish_reason, call.function.name), ("tool_calls", "get_weather"))
            self.assertEqual(json.loads(call.function.arguments).keys(), {"city"})
            result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
            messages = [*QUESTION, message, result]
            answer = litellm.completion(**provider, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=8)
            self.assertIsNone(answer.choices[0].message.tool_calls)
            self.assertTrue(answer.choices[0].message.content)

    def test_a_tool_is_called_in_pieces(self):
        for provider in self.each():
            answer = litellm.stream_chunk_builder(list(litellm.completion(**provider, **CALL, stream=True)))
            (call,) = answer.choices[0].message.tool_calls
            self.assertEqual((answer.choices[0].finish_reason, call.function.name), ("tool_calls", "get_weather"))
            self.assertEqual(json.loads(call.function.arguments).keys(), {"city"})

    def test_a_call_that_is_cut(self):
        for provider in self.each():
            answer = litellm.completion(**provider, **{**CALL, "max_tokens": 24}, temperature=0)
            (call,) = answer.choices[0].message.tool_calls
            self.assertEqual((answer.choices[0].finish_reason, call.function.name), ("length", "get_weather"))

    def test_parsed(self):
        for provider in self.each():
            answer = litellm.completion(**provider, messages=QUESTION, response_format=Bird, max_tokens=80, temperature=0)
            Bird.model_validate_json(answer.choices[0].message.content)


class Others(unittest.TestCase):
    def test_embeddings(self):
        answer = litellm.embedding(**OPENAI, input=["rain", "snow"])
        self.assertEqual([(each["index"], len(each["embedding"])) for each in answer.data], [(0, 576), (1, 576)])
        self.assertEqual(answer.usage.prompt_tokens, answer.usage.total_tokens)

    def test_texts(self):
        ask = {**OPENAI, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        answer = litellm.text_completion(**ask)
        self.assertIn("Paris", answer.choices[0].text)
        self.assertEqual((answer.usage.completion_tokens, answer.choices[0].finish_reason), (8, "length"))
        pieces = [chunk.choices[0].text or "" for chunk in litellm.text_completion(**ask, stream=True)]
        self.assertEqual("".join(pieces), answer.choices[0].text)

    def test_models(self):
        found = litellm.get_valid_models(True, "openai", api_base=OPENAI["api_base"], api_key="secret")
        self.assertEqual(found, ["tiny"])


class Errors(unittest.TestCase):
    def check(self, kind, **change):
        for provider in (OPENAI, ANTHROPIC):
            with self.subTest(provider["model"]):
                with self.assertRaises(kind) as caught:
                    litellm.completion(**{**provider, **GREEDY, **change})
                self.assertIs(type(caught.exception), kind)

    def test_what_is_wrong(self):
        self.check(litellm.BadRequestError, temperature=3)

    def test_what_is_too_long(self):
        self.check(litellm.ContextWindowExceededError, messages=[{"role": "user", "content": "word " * 9000}])

    def test_who_has_no_key(self):
        self.check(litellm.AuthenticationError, api_key="guessed")

    def test_what_is_not_there(self):
        for provider in (OPENAI, ANTHROPIC):
            with self.subTest(provider["model"]), self.assertRaises(litellm.NotFoundError):
                litellm.completion(**{**provider, "model": provider["model"] + "-other"}, **GREEDY)


if __name__ == "__main__":
    unittest.main()
