"""LangChain's package for llama.cpp's server against the server at $ORTOLAN, whose model calls `get_weather`."""

import os
import unittest

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_llama_cpp import ChatLlama, LlamaInvalidRequestError

MODEL = ChatLlama(model="any", base_url=os.environ["ORTOLAN"], max_tokens=100)


@tool
def get_weather(city: str) -> str:
    """Get the weather."""
    return f"rain in {city}"


class Chat(unittest.TestCase):
    def test_a_response_has_usage_and_timings(self):
        message = MODEL.invoke("Hello.")
        self.assertEqual(message.content, "A short title")
        self.assertEqual(message.usage_metadata["output_tokens"], message.response_metadata["timings"]["predicted_n"])

    def test_a_stream_has_the_same_text(self):
        chunks = list(MODEL.stream("Hello."))
        self.assertEqual("".join(chunk.content for chunk in chunks), "A short title")
        self.assertTrue(any(chunk.usage_metadata for chunk in chunks))
        self.assertTrue(any("timings" in chunk.response_metadata for chunk in chunks))

    def test_the_model_calls_a_tool_and_answers_with_its_result(self):
        model = MODEL.bind_tools([get_weather])
        messages = [HumanMessage("How is the weather in Rome?")]
        message = model.invoke(messages)
        (call,) = message.tool_calls
        self.assertEqual((call["name"], call["args"]), ("get_weather", {"city": "Rome"}))
        messages += [message, get_weather.invoke(call)]
        self.assertIsInstance(messages[-1], ToolMessage)
        self.assertEqual(model.invoke(messages).content, "It rains in Rome.")

    def test_llama_cpp_sampling_parameters_are_accepted(self):
        model = ChatLlama(
            model="any", base_url=os.environ["ORTOLAN"], max_tokens=100, top_k=5, min_p=0.1, samplers=["top_k", "temperature"]
        )
        self.assertEqual(model.invoke("Hello.").content, "A short title")

    def test_structured_output_follows_the_schema(self):
        schema = {
            "title": "bird",
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 8}, "sings": {"type": "boolean"}},
            "required": ["name", "sings"],
        }
        answer = MODEL.with_structured_output(schema).invoke("Describe a bird.")
        self.assertEqual(answer.keys(), {"name", "sings"})

    def test_an_invalid_request_raises_invalid_request_error(self):
        with self.assertRaises(LlamaInvalidRequestError):
            ChatLlama(model="any", base_url=os.environ["ORTOLAN"], top_p=7.0).invoke("Hello.")


if __name__ == "__main__":
    unittest.main()
