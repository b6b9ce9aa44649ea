"""What a key of the configuration may hold, and what a group of keys is."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LARGEST = 10**18  # of a number: 64-bit integers and float32 hold it, and nobody needs more
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
NotNegative = Annotated[int, Field(ge=0, le=LARGEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
NotNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Metric = Literal["cost/train", "accuracy/train", "cost/val", "accuracy/val"]
Mode = Literal["min", "max"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Cost = Literal["cross_entropy", "quadratic"]
Init = Literal["xavier", "nielsen_small", "nielsen_large", "small_random", "uniform", "zeros"]


class Node(BaseModel):
    """A group of keys; any other key is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)
