"""Strict: the base of all that a client sends. No unknown field, no silent conversion, no echo of what was sent."""

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """A request model."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, values: object) -> object:
        """Name the fields that there are; the unknown one's name is the client's text and is not repeated."""
        if isinstance(values, dict) and not values.keys() <= cls.model_fields.keys():
            known = ", ".join(cls.model_fields)
            raise PydanticCustomError("unknown_field", "unknown field; there are: {known}", {"known": known})
        return values


class Sent(BaseModel):
    """The base of everything that we answer."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
