"""OpenAI's agents library against the server at $ORTOLAN, whose model calls `get_weather`: over `/v1/responses` and over
`/v1/chat/completions`."""

import os
import unittest

from agents import Agent, Runner, function_tool, set_default_openai_api, set_default_openai_client, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)


class OneTurn(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        # A client is bound to its event loop, and each test has its own.
        client = AsyncOpenAI(base_url=os.environ["ORTOLAN"] + "/v1", api_key="none")
        set_default_openai_client(client)
        self.addAsyncCleanup(client.close)

    def agent(self):
        cities = []

        @function_tool
        def get_weather(city: str) -> str:
            """Get the weather."""
            cities.append(city)
            return f"rain in {city}"

        return cities, Agent(name="Forecaster", instructions="Use the tool.", model="any", tools=[get_weather])

    async def run_and_stream(self):
        cities, agent = self.agent()
        result = await Runner.run(agent, "How is the weather in Rome?")
        self.assertEqual((cities, result.final_output), (["Rome"], "It rains in Rome."))

        cities, agent = self.agent()
        result = Runner.run_streamed(agent, "How is the weather in Rome?")
        kinds = {event.type async for event in result.stream_events()}
        self.assertIn("raw_response_event", kinds)
        self.assertEqual((cities, result.final_output), (["Rome"], "It rains in Rome."))

    async def test_responses(self):
        set_default_openai_api("responses")
        await self.run_and_stream()

    async def test_chat_completions(self):
        set_default_openai_api("chat_completions")
        await self.run_and_stream()


if __name__ == "__main__":
    unittest.main()
