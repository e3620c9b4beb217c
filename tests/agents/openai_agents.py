"""OpenAI's agents library against the server at ORTOLAN, whose model calls `get_weather`: by `/v1/responses` and by
`/v1/chat/completions`."""

import os
import unittest

from agents import Agent, Runner, function_tool, set_default_openai_api, set_default_openai_client, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)


class OneTurn(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        # Each test has an event loop, to which a client is bound.
        client = AsyncOpenAI(base_url=os.environ["ORTOLAN"] + "/v1", api_key="none")
        set_default_openai_client(client)
        self.addAsyncCleanup(client.close)

    def agent(self):
        asked = []

        @function_tool
        def get_weather(city: str) -> str:
            """Get the weather."""
            asked.append(city)
            return f"rain in {city}"

        return asked, Agent(name="Forecaster", instructions="Use the tool.", model="any", tools=[get_weather])

    async def both(self):
        asked, agent = self.agent()
        result = await Runner.run(agent, "How is the weather in Rome?")
        self.assertEqual((asked, result.final_output), (["Rome"], "It rains in Rome."))

        asked, agent = self.agent()
        result = Runner.run_streamed(agent, "How is the weather in Rome?")
        kinds = {event.type async for event in result.stream_events()}
        self.assertIn("raw_response_event", kinds)
        self.assertEqual((asked, result.final_output), (["Rome"], "It rains in Rome."))

    async def test_responses(self):
        set_default_openai_api("responses")
        await self.both()

    async def test_chat_completions(self):
        set_default_openai_api("chat_completions")
        await self.both()


if __name__ == "__main__":
    unittest.main()
