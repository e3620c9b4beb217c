"""Anthropic's Python library against the server at $ORTOLAN; only the address is configured."""

import os
import unittest

import anthropic

CLIENT = anthropic.Anthropic(base_url=os.environ["ORTOLAN"], api_key="none")
QUESTION = [{"role": "user", "content": "Name the capital of Italy."}]
# The library no longer has an argument for the temperature.
GREEDY = {"temperature": 0}
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a place.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
}
CALL = {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "max_tokens": 80}


class Messages(unittest.TestCase):
    def test_message(self):
        response = CLIENT.messages.create(model="any", max_tokens=24, messages=QUESTION, extra_body=GREEDY)
        self.assertIn("Rome", response.content[0].text)
        self.assertEqual((response.stop_reason, response.role), ("end_turn", "assistant"))
        tokens = response.usage.input_tokens + response.usage.cache_read_input_tokens
        count = CLIENT.messages.count_tokens(model="any", messages=QUESTION)
        self.assertEqual(tokens, count.input_tokens)

    def test_streamed_message(self):
        with CLIENT.messages.stream(model="any", max_tokens=24, messages=QUESTION, extra_body=GREEDY) as stream:
            text = "".join(stream.text_stream)
            message = stream.get_final_message()
        self.assertIn("Rome", text)
        self.assertEqual(message.content[0].text, text)
        self.assertEqual(message.stop_reason, "end_turn")

    def test_tool_use_and_result(self):
        response = CLIENT.messages.create(model="any", messages=QUESTION, **CALL)
        (use,) = response.content
        self.assertEqual((response.stop_reason, use.type, use.name), ("tool_use", "tool_use", "get_weather"))
        self.assertEqual(use.input.keys(), {"city"})
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
        messages = [*QUESTION, {"role": "assistant", "content": response.content}, {"role": "user", "content": [result]}]
        response = CLIENT.messages.create(
            model="any", max_tokens=8, messages=messages, tools=[WEATHER], tool_choice={"type": "none"}
        )
        self.assertEqual(response.content[0].type, "text")

    def test_streamed_tool_use(self):
        with CLIENT.messages.stream(model="any", messages=QUESTION, **CALL) as stream:
            kinds = {event.type for event in stream}
            message = stream.get_final_message()
        self.assertIn("input_json", kinds)
        self.assertEqual(message.content[0].input.keys(), {"city"})

    def test_an_error_has_its_exception_class(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            CLIENT.messages.create(model="any", max_tokens=8, messages=[])
        self.assertEqual(caught.exception.body["error"]["type"], "invalid_request_error")


if __name__ == "__main__":
    unittest.main()
