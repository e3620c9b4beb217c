"""OpenAI's Python library against the server at $ORTOLAN; only the address is configured."""

import json
import os
import unittest

import openai
import pydantic

CLIENT = openai.OpenAI(base_url=os.environ["ORTOLAN"] + "/v1", api_key="none")
QUESTION = [{"role": "user", "content": "Name the capital of Italy."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a place.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 7]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CALL = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 80}


class Bird(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    can_sing: bool


class Chat(unittest.TestCase):
    def test_chat_completion(self):
        response = CLIENT.chat.completions.create(model="any", messages=QUESTION, max_tokens=24, temperature=0)
        self.assertIn("Rome", response.choices[0].message.content)
        self.assertEqual(response.choices[0].finish_reason, "stop")
        usage = response.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

    def test_streamed(self):
        chunks = list(
            CLIENT.chat.completions.create(
                model="any", messages=QUESTION, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertIn("Rome", text)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.prompt_tokens), ([], 36))

    def test_parsed(self):
        response = CLIENT.chat.completions.parse(model="any", messages=QUESTION, response_format=Bird, max_tokens=80)
        self.assertIsInstance(response.choices[0].message.parsed, Bird)

    def test_logprobs_and_choices(self):
        response = CLIENT.chat.completions.create(
            model="any", messages=QUESTION, max_tokens=4, n=2, logprobs=True, top_logprobs=3, extra_body={"regex": "[a-z ]{40}"}
        )
        self.assertEqual([choice.index for choice in response.choices], [0, 1])
        for choice in response.choices:
            self.assertEqual([len(token.top_logprobs) for token in choice.logprobs.content], [3] * 4)

    def test_tool_call_and_result(self):
        response = CLIENT.chat.completions.create(model="any", messages=QUESTION, **CALL)
        message = response.choices[0].message
        self.assertEqual((response.choices[0].finish_reason, len(message.tool_calls)), ("tool_calls", 1))
        arguments = json.loads(message.tool_calls[0].function.arguments)
        self.assertEqual(arguments.keys(), {"city", "days"})
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
        response = CLIENT.chat.completions.create(
            model="any", messages=[*QUESTION, message, result], tools=[WEATHER], tool_choice="none", max_tokens=8
        )
        self.assertIsNone(response.choices[0].message.tool_calls)

    def test_streamed_tool_call(self):
        with CLIENT.chat.completions.stream(model="any", messages=QUESTION, **CALL) as stream:
            kinds = {event.type for event in stream}
            message = stream.get_final_completion().choices[0].message
        self.assertIn("tool_calls.function.arguments.delta", kinds)
        self.assertIn("tool_calls.function.arguments.done", kinds)
        self.assertEqual(message.tool_calls[0].function.parsed_arguments.keys(), {"city", "days"})


class Responses(unittest.TestCase):
    TOOL = {"type": "function", "name": "get_weather", "strict": True, "parameters": WEATHER["function"]["parameters"]}

    def test_create_retrieve_continue_and_delete(self):
        response = CLIENT.responses.create(
            model="any", input="Name the capital of Italy.", instructions="You are terse.", max_output_tokens=24, temperature=0
        )
        self.assertIn("Rome", response.output_text)
        self.assertEqual((response.status, response.usage.input_tokens), ("completed", 25))
        self.assertEqual(CLIENT.responses.retrieve(response.id), response)
        items = list(CLIENT.responses.input_items.list(response.id, limit=1))
        self.assertEqual([item.content[0].text for item in items], ["Name the capital of Italy."])
        continuation = CLIENT.responses.create(
            model="any", input="And of France?", previous_response_id=response.id, max_output_tokens=24, temperature=0
        )
        self.assertIn("Paris", continuation.output_text)
        # The library fetches three pages.
        self.assertEqual(len(list(CLIENT.responses.input_items.list(continuation.id, limit=1, order="asc"))), 3)
        CLIENT.responses.delete(response.id)
        with self.assertRaises(openai.NotFoundError):
            CLIENT.responses.retrieve(response.id)
        count = CLIENT.responses.input_tokens.count(model="any", input="Name the capital of Italy.", instructions="You are terse.")
        self.assertEqual(count.input_tokens, 25)

    def test_streamed(self):
        stream = CLIENT.responses.create(model="any", input=QUESTION, max_output_tokens=24, temperature=0, stream=True)
        events = list(stream)
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        self.assertEqual((events[0].type, events[-1].type), ("response.created", "response.completed"))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(text, events[-1].response.output_text)
        with CLIENT.responses.stream(model="any", input=QUESTION, max_output_tokens=80, text_format=Bird) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_response()
        self.assertIn("response.output_text.done", kinds)
        self.assertIsInstance(final.output_parsed, Bird)

    def test_parsed(self):
        response = CLIENT.responses.parse(model="any", input=QUESTION, text_format=Bird, max_output_tokens=80)
        self.assertIsInstance(response.output_parsed, Bird)

    def test_tool_call_and_result(self):
        call = {"tools": [self.TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 80}
        response = CLIENT.responses.create(model="any", input=QUESTION, **call)
        (call_item,) = response.output
        self.assertEqual(json.loads(call_item.arguments).keys(), {"city", "days"})
        result = {"type": "function_call_output", "call_id": call_item.call_id, "output": "rain"}
        stored_response = CLIENT.responses.create(
            model="any", input=[result], previous_response_id=response.id, tools=[self.TOOL], tool_choice="none", max_output_tokens=8
        )
        resent = CLIENT.responses.create(
            model="any", input=[*QUESTION, *response.output, result], tools=[self.TOOL], tool_choice="none", max_output_tokens=8, store=False
        )
        self.assertEqual([item.type for item in (*stored_response.output, *resent.output)], ["message", "message"])
        self.assertEqual(stored_response.usage.input_tokens, resent.usage.input_tokens)
        with CLIENT.responses.stream(model="any", input=QUESTION, **call) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_response()
        self.assertIn("response.function_call_arguments.delta", kinds)
        self.assertEqual(json.loads(final.output[0].arguments).keys(), {"city", "days"})

    def test_logprobs(self):
        response = CLIENT.responses.create(
            model="any", input=QUESTION, max_output_tokens=4, include=["message.output_text.logprobs"], top_logprobs=3,
            extra_body={"regex": "[a-z ]{40}"},
        )
        (part,) = response.output[0].content
        self.assertEqual([len(token.top_logprobs) for token in part.logprobs], [3] * 4)
        self.assertEqual((response.status, response.incomplete_details.reason), ("incomplete", "max_output_tokens"))


class Others(unittest.TestCase):
    def test_embeddings(self):
        # By default the library requests Base64 and decodes it.
        from_base64 = CLIENT.embeddings.create(model="any", input=["rain", "snow"])
        from_floats = CLIENT.embeddings.create(model="any", input=["rain", "snow"], encoding_format="float")
        for left, right in zip(from_base64.data, from_floats.data, strict=True):
            self.assertEqual((left.index, len(left.embedding)), (right.index, 576))
            for left_value, right_value in zip(left.embedding, right.embedding, strict=True):
                self.assertAlmostEqual(left_value, right_value, places=6)

    def test_completions(self):
        response = CLIENT.completions.create(
            model="any", prompt="The capital of France is", max_tokens=8, temperature=0, echo=True, logprobs=2
        )
        self.assertIn("Paris", response.choices[0].text)
        logprobs = response.choices[0].logprobs
        self.assertEqual(logprobs.tokens[0], "The")
        self.assertEqual([len(top) for top in logprobs.top_logprobs[1:]], [2] * 12)
        stream = CLIENT.completions.create(model="any", prompt="Once", max_tokens=4, stream=True, extra_body={"regex": "[a-z ]{40}"})
        self.assertGreater(len("".join(chunk.choices[0].text for chunk in stream)), 3)

    def test_models(self):
        (model,) = CLIENT.models.list().data
        self.assertEqual(CLIENT.models.retrieve(model.id).id, model.id)


class Errors(unittest.TestCase):
    def check(self, kind, code, param, send_request):
        with self.assertRaises(kind) as caught:
            send_request()
        self.assertEqual((caught.exception.code, caught.exception.param), (code, param))

    def test_each_error_has_its_exception_class(self):
        chat = CLIENT.chat.completions.create
        self.check(openai.NotFoundError, "model_not_found", "model", lambda: CLIENT.models.retrieve("gpt-5"))
        self.check(openai.BadRequestError, None, "messages", lambda: chat(model="any", messages=[]))
        self.check(openai.BadRequestError, None, "temperature", lambda: chat(model="any", messages=QUESTION, temperature=3))
        respond = CLIENT.responses.create
        self.check(
            openai.BadRequestError,
            "previous_response_not_found",
            "previous_response_id",
            lambda: respond(model="any", input="a", previous_response_id="resp_a"),
        )
        search = {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}
        self.check(openai.BadRequestError, None, "tool_choice.type", lambda: respond(model="any", input="a", **search))
        self.check(openai.NotFoundError, None, None, lambda: CLIENT.responses.retrieve("resp_a"))
        long = [{"role": "user", "content": "word " * 9000}]
        self.check(openai.BadRequestError, "context_length_exceeded", None, lambda: chat(model="any", messages=long))

    def test_rejected_requests_are_retried(self):
        """With a short queue most of eight concurrent requests are rejected at first; the library retries them."""
        client = openai.OpenAI(base_url=os.environ["ORTOLAN"] + "/v1", api_key="none", max_retries=20)

        def send_request(number):
            body = {"regex": "[a-z ]{400}"}
            response = client.chat.completions.create(model="any", messages=QUESTION, max_tokens=16, seed=number, extra_body=body)
            return response.usage.completion_tokens

        import concurrent.futures

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            self.assertEqual(list(pool.map(send_request, range(8))), [16] * 8)


if __name__ == "__main__":
    unittest.main()
