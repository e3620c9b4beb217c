"""Instructor against the server at ORTOLAN: objects of one's own classes, by calls and by JSON."""

import os
import typing
import unittest

import instructor
import openai
import pydantic
from instructor.core import InstructorRetryException

SERVER = openai.OpenAI(base_url=os.environ["ORTOLAN"] + "/v1", api_key="none")
ASK = {"model": "any", "messages": [{"role": "user", "content": "Plan a trip to Rome."}], "temperature": 0}


class Closed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Place(Closed):
    city: str = pydantic.Field(max_length=12)
    country: typing.Literal["Italy", "Norway"]


class Trip(Closed):
    days: int = pydantic.Field(ge=1, le=9)
    places: list[Place] = pydantic.Field(min_length=1, max_length=2)


class Objects:
    def setUp(self):
        self.client = instructor.from_openai(SERVER, mode=self.mode)

    def test_nested(self):
        trip, answer = self.client.create_with_completion(response_model=Trip, **ASK, max_tokens=160)
        self.assertIsInstance(trip.places[0], Place)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_as_it_grows(self):
        trips = list(self.client.create_partial(response_model=Trip, **ASK, max_tokens=160))
        self.assertIsNone(trips[0].days)
        self.assertGreater(len({trip.model_dump_json() for trip in trips}), 3)
        Trip.model_validate(trips[-1].model_dump())


class Calls(Objects, unittest.TestCase):
    mode = instructor.Mode.TOOLS

    def test_a_named_function_is_called_once(self):
        _, answer = self.client.create_with_completion(response_model=Place, **ASK, max_tokens=80)
        self.assertEqual(len(answer.choices[0].message.tool_calls), 1)

    def test_one_after_the_other(self):
        places = list(self.client.create_iterable(response_model=Place, **ASK, max_tokens=80))
        self.assertEqual({type(place) for place in places}, {Place})

    def test_it_is_asked_again(self):
        """What a schema does not say the library checks, and tells the model."""
        asked = []

        class Second(Place):
            @pydantic.field_validator("city")
            def is_second(cls, city):
                asked.append(city)
                if len(asked) == 1:
                    raise ValueError("name it once more")
                return city

        place = self.client.create(response_model=Second, **ASK, max_tokens=80, max_retries=2)
        self.assertEqual((len(asked), place.city), (2, asked[1]))


class Schema(Objects, unittest.TestCase):
    mode = instructor.Mode.JSON_SCHEMA

    def test_it_is_given_up(self):
        class Never(Place):
            @pydantic.field_validator("city")
            def is_never(cls, city):
                raise ValueError("name another")

        with self.assertRaises(InstructorRetryException) as caught:
            self.client.create(response_model=Never, **ASK, max_tokens=80, max_retries=1)
        self.assertEqual(caught.exception.n_attempts, 2)


class Json(unittest.TestCase):
    def test_by_example(self):
        """The server holds it to JSON, and the model to what it was shown."""
        client = instructor.from_openai(SERVER, mode=instructor.Mode.JSON)
        shown = [
            {"role": "user", "content": "Oslo"},
            {"role": "assistant", "content": '{"city": "Oslo", "country": "Norway"}'},
            {"role": "user", "content": "Rome"},
        ]
        place = client.create(response_model=Place, model="any", messages=shown, temperature=0, max_tokens=40)
        self.assertEqual((place.city, place.country), ("Rome", "Italy"))


if __name__ == "__main__":
    unittest.main()
