"""Writes pydantic.json: schemas as pydantic emits them (model_json_schema), for the parameters of tools.

    pip install pydantic==2.14.4 && python pydantic_models.py > pydantic.json
"""

import datetime
import enum
import ipaddress
import json
import pathlib
import re
import sys
import uuid
from collections import defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar, Union

from pydantic import (
    AnyUrl, AwareDatetime, Base64Bytes, Base64Str, BaseModel, ByteSize, ConfigDict, Field, FilePath,
    FutureDate, HttpUrl, IPvAnyAddress, Json, NegativeFloat, NonNegativeInt, PastDate, PositiveInt, RootModel, SecretStr,
    StringConstraints, TypeAdapter, UUID4, conint, conlist, constr,
)
from typing_extensions import TypedDict

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    """Where somebody lives."""

    street: str
    zip: Annotated[str, StringConstraints(pattern=r"^\d{5}$")]
    country: Literal["it", "de"] = "it"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Plain(BaseModel):
    a: int


class Other(BaseModel):
    b: str


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Tree(BaseModel):
    left: Optional["Tree"] = None
    right: Optional["Tree"] = None


class Even(BaseModel):
    next: Optional["Odd"] = None


class Odd(BaseModel):
    next: Optional[Even] = None


class Point(NamedTuple):
    x: float
    y: float


class Movie(TypedDict, total=False):
    title: str
    year: int


@dataclass
class Pair:
    left: str
    right: int = 0


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int


class Base(BaseModel):
    id: uuid.UUID


class Derived(Base):
    name: str


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Ints(BaseModel):
    __pydantic_extra__: dict[str, int]
    model_config = ConfigDict(extra="allow")


class Titled(BaseModel):
    model_config = ConfigDict(title="A title", json_schema_extra={"examples": [{"a": 1}], "x-order": 1})
    a: int = Field(title="An a", description="What it is", examples=[1, 2], deprecated=True)


class Aliased(BaseModel):
    from_: str = Field(alias="from")
    strange: int = Field(alias="a/b~c \"d\"")


FIELDS = {
    "no_arguments": {},
    "scalars": {"i": int, "f": float, "s": str, "b": bool, "n": None},
    "optional": {"a": (Optional[int], None), "b": Optional[str], "c": (int | None, 3), "d": (str, "x")},
    "any": {"a": Any, "b": object, "c": (Any, None)},
    "constrained_ints": {"a": conint(ge=0, le=100), "b": PositiveInt, "c": NonNegativeInt, "d": Annotated[int, Field(multiple_of=5)]},
    "constrained_floats": {"a": Annotated[float, Field(gt=0, lt=1)], "b": NegativeFloat, "c": Annotated[float, Field(ge=-90, le=90)]},
    "big_integers": {"signed": conint(ge=-(2**63), le=2**63 - 1), "unsigned": conint(ge=0, le=2**64 - 1)},
    "multiples": {"cents": Annotated[float, Field(multiple_of=0.01)], "thousands": Annotated[int, Field(multiple_of=1000)]},
    "constrained_strings": {"a": constr(min_length=1, max_length=8), "b": constr(pattern=r"^[a-z]+-\d+$"), "c": constr(to_lower=True)},
    "compiled_pattern": {"a": re.Pattern, "b": Annotated[str, Field(pattern=r"^yes|no$")]},
    "lookahead": {"a": Annotated[str, Field(json_schema_extra={"pattern": r"^(?!.*\.\.)[a-z.]+$"})]},
    "dates": {"at": datetime.datetime, "day": datetime.date, "time": datetime.time, "span": datetime.timedelta},
    "constrained_dates": {"aware": AwareDatetime, "past": PastDate, "future": FutureDate},
    "decimals": {"a": Decimal, "b": Annotated[Decimal, Field(max_digits=5, decimal_places=2)], "c": Annotated[Decimal, Field(ge=0)]},
    "uuids": {"any": uuid.UUID, "four": UUID4},
    "bytes": {"raw": bytes, "base64": Base64Bytes, "text": Base64Str, "size": ByteSize},
    "paths": {"path": pathlib.Path, "file": FilePath},
    "urls": {"any": AnyUrl, "http": HttpUrl},
    "networks": {"four": ipaddress.IPv4Address, "six": ipaddress.IPv6Address, "net": ipaddress.IPv4Network, "any": IPvAnyAddress},
    "secrets": {"password": SecretStr},
    "json": {"any": Json, "typed": Json[list[int]]},
    "enums": {"color": Color, "level": Level, "colors": list[Color]},
    "literals": {"a": Literal["x", "y"], "b": Literal[1], "c": Literal["a", 2, True, None]},
    "lists": {"a": list[int], "b": list, "c": conlist(str, min_length=1, max_length=3), "d": list[list[float]]},
    "sets": {"a": set[str], "b": frozenset[int], "c": Annotated[set[int], Field(min_length=1, max_length=3)]},
    "deques": {"a": deque[int]},
    "tuples": {"a": tuple[int, str], "b": tuple[int, ...], "c": tuple[()], "d": tuple},
    "named_tuple": {"point": Point},
    "dicts": {"a": dict[str, int], "b": dict, "c": dict[str, Any], "d": dict[int, str], "e": defaultdict[str, list[int]]},
    "dict_keys": {"a": dict[Color, int], "b": dict[Annotated[str, Field(pattern="^k")], int], "c": dict[uuid.UUID, str]},
    "dict_limits": {"a": Annotated[dict[str, int], Field(min_length=1, max_length=2)]},
    "unions": {"a": Union[int, str], "b": Union[int, float, None], "c": list[Union[int, list[int]]]},
    "overlapping_unions": {"a": Union[Plain, Other], "b": Union[Plain, int, None]},
    "discriminated": {"pet": Annotated[Union[Cat, Dog], Field(discriminator="kind")]},
    "discriminated_list": {"pets": list[Annotated[Union[Cat, Dog], Field(discriminator="kind")]]},
    "nested": {"home": Address, "work": Optional[Address], "others": list[Address]},
    "described_nested": {"home": Annotated[Address, Field(description="Home")], "work": (Address, Field(default=None, title="Work"))},
    "recursive": {"root": Node},
    "recursive_optional": {"tree": Tree},
    "mutually_recursive": {"start": Even},
    "typed_dict": {"movie": Movie},
    "dataclass": {"pair": Pair},
    "generic": {"page": Page[Address], "ints": Page[int]},
    "inherited": {"one": Derived},
    "forbidden_extra": {"closed": Closed},
    "allowed_extra": {"open": Open, "ints": Ints},
    "documented": {"titled": Titled},
    "aliases": {"aliased": Aliased},
    "callable_defaults": {"at": (datetime.date, Field(default_factory=datetime.date.today)), "tags": (list[str], Field(default_factory=list))},
    "ranges": {"latitude": Annotated[float, Field(ge=-90, le=90, description="Degrees")], "percent": Annotated[int, Field(ge=0, le=100)]},
    "pagination": {"limit": (Annotated[int, Field(ge=1, le=100)], 20), "cursor": (Optional[str], None), "order": (Literal["asc", "desc"], "asc")},
}


def schemas():
    for name, fields in FIELDS.items():
        annotations = {key: value[0] if isinstance(value, tuple) else value for key, value in fields.items()}
        defaults = {key: value[1] for key, value in fields.items() if isinstance(value, tuple)}
        model = type("Arguments", (BaseModel,), {
            "__annotations__": annotations,
            "__module__": __name__,
            "model_config": ConfigDict(arbitrary_types_allowed=True),
            **defaults,
        })
        yield name, model.model_json_schema()
    yield "serialized", Page[Decimal].model_json_schema(mode="serialization")
    yield "definitions_elsewhere", Derived.model_json_schema(ref_template="#/components/schemas/{model}")
    yield "nested_definitions_elsewhere", Page[Address].model_json_schema(ref_template="#/components/schemas/{model}")


entries = [json.dumps({"name": name, "schema": schema}) for name, schema in schemas()]
sys.stdout.write("[\n" + ",\n".join(entries) + "\n]\n")
