"""Instructor against the server at $ORTOLAN: objects of custom classes, through tool calls and through JSON schemas."""

import os
import typing
import unittest

import instructor
import openai
import pydantic
from instructor.core import InstructorRetryException

SERVER = openai.OpenAI(base_url=os.environ["ORTOLAN"] + "/v1", api_key="none")
REQUEST = {"model": "any", "messages": [{"role": "user", "content": "Plan a trip to Rome."}], "temperature": 0}


class Closed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Place(Closed):
    city: str = pydantic.Field(max_length=12)
    country: typing.Literal["Italy", "Norway"]


class Trip(Closed):
    days: int = pydantic.Field(ge=1, le=9)
    places: list[Place] = pydantic.Field(min_length=1, max_length=2)


class StructuredOutput:
    def setUp(self):
        self.client = instructor.from_openai(SERVER, mode=self.mode)

    def test_nested_object(self):
        trip, response = self.client.create_with_completion(response_model=Trip, **REQUEST, max_tokens=160)
        self.assertIsInstance(trip.places[0], Place)
        self.assertEqual(response.usage.total_tokens, response.usage.prompt_tokens + response.usage.completion_tokens)

    def test_partial_objects_are_streamed(self):
        trips = list(self.client.create_partial(response_model=Trip, **REQUEST, max_tokens=160))
        self.assertIsNone(trips[0].days)
        self.assertGreater(len({trip.model_dump_json() for trip in trips}), 3)
        Trip.model_validate(trips[-1].model_dump())


class ToolCalls(StructuredOutput, unittest.TestCase):
    mode = instructor.Mode.TOOLS

    def test_a_named_function_is_called_once(self):
        _, response = self.client.create_with_completion(response_model=Place, **REQUEST, max_tokens=80)
        self.assertEqual(len(response.choices[0].message.tool_calls), 1)

    def test_iterable_of_objects(self):
        places = list(self.client.create_iterable(response_model=Place, **REQUEST, max_tokens=80))
        self.assertEqual({type(place) for place in places}, {Place})

    def test_a_failed_validation_is_retried(self):
        """The library checks what the schema cannot express, and sends the error to the model."""
        cities = []

        class Second(Place):
            @pydantic.field_validator("city")
            def is_second(cls, city):
                cities.append(city)
                if len(cities) == 1:
                    raise ValueError("name it once more")
                return city

        place = self.client.create(response_model=Second, **REQUEST, max_tokens=80, max_retries=2)
        self.assertEqual((len(cities), place.city), (2, cities[1]))


class Schema(StructuredOutput, unittest.TestCase):
    mode = instructor.Mode.JSON_SCHEMA

    def test_retries_are_limited(self):
        class Never(Place):
            @pydantic.field_validator("city")
            def is_never(cls, city):
                raise ValueError("name another")

        with self.assertRaises(InstructorRetryException) as caught:
            self.client.create(response_model=Never, **REQUEST, max_tokens=80, max_retries=1)
        self.assertEqual(caught.exception.n_attempts, 2)


class Json(unittest.TestCase):
    def test_json_mode_with_an_example(self):
        """The server enforces JSON; the model follows the example."""
        client = instructor.from_openai(SERVER, mode=instructor.Mode.JSON)
        messages = [
            {"role": "user", "content": "Oslo"},
            {"role": "assistant", "content": '{"city": "Oslo", "country": "Norway"}'},
            {"role": "user", "content": "Rome"},
        ]
        place = client.create(response_model=Place, model="any", messages=messages, temperature=0, max_tokens=40)
        self.assertEqual((place.city, place.country), ("Rome", "Italy"))


if __name__ == "__main__":
    unittest.main()
