"""The tool runner of Anthropic's Python library against the server at $ORTOLAN, whose model calls `get_weather`."""

import os
import unittest

import anthropic

CLIENT = anthropic.Anthropic(base_url=os.environ["ORTOLAN"], api_key="none")
QUESTION = {"role": "user", "content": "How is the weather in Rome?"}


class ToolRunner(unittest.TestCase):
    def run_with(self, **options):
        cities = []

        @anthropic.beta_tool
        def get_weather(city: str) -> str:
            """Get the weather.

            Args:
                city: The city's name.
            """
            cities.append(city)
            return f"rain in {city}"

        runner = CLIENT.beta.messages.tool_runner(
            model="any", max_tokens=100, tools=[get_weather], messages=[QUESTION], **options
        )
        return cities, runner

    def check(self, cities, messages):
        self.assertEqual(cities, ["Rome"])
        self.assertEqual([message.stop_reason for message in messages], ["tool_use", "end_turn"])
        self.assertEqual(messages[-1].content[-1].text, "It rains in Rome.")

    def test_the_model_answers_with_the_tool_result(self):
        cities, runner = self.run_with()
        self.check(cities, list(runner))

    def test_the_model_answers_with_the_tool_result_when_streaming(self):
        cities, runner = self.run_with(stream=True)
        self.check(cities, [stream.get_final_message() for stream in runner])


if __name__ == "__main__":
    unittest.main()
