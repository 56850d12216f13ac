"""What the shop sells. Constant, so that every bit of changing state is in the session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """Something to buy: its price in cents, its name by language, its drawing as an SVG path of 24 by 24."""

    id: str
    cents: int
    names: Mapping[str, str]
    drawing: str


_ITEMS = (
    Item(
        "tent",
        129_00,
        {"en": "Tent for two", "de": "Zelt für zwei", "zh": "双人帐篷"},
        "M2 20h20M12 4 3.5 20M12 4l8.5 16M12 12l-4 8M12 12l4 8",
    ),
    Item(
        "lantern",
        24_50,
        {"en": "Lantern", "de": "Laterne", "zh": "提灯"},
        "M9 3h6M12 3v3M8 6h8M7 11a5 5 0 0 1 10 0v5a5 5 0 0 1-10 0zM8 21h8M12 11.5v4",
    ),
    Item(
        "kettle",
        32_00,
        {"en": "Kettle", "de": "Kessel", "zh": "水壶"},
        "M6 20h11a1 1 0 0 0 1-1v-5a6.5 6.5 0 0 0-13 0v5a1 1 0 0 0 1 1zM18 13l3.5-3.5M8 7.5a5 5 0 0 1 7 0M11.5 4v1.5",
    ),
    Item(
        "map",
        9_90,
        {"en": "Map", "de": "Landkarte", "zh": "地图"},
        "M3 6l6-2 6 2 6-2v14l-6 2-6-2-6 2zM9 4v14M15 6v14",
    ),
    Item(
        "compass",
        18_00,
        {"en": "Compass", "de": "Kompass", "zh": "指南针"},
        "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM15.5 8.5l-2 5-5 2 2-5z",
    ),
    Item(
        "backpack",
        89_00,
        {"en": "Backpack", "de": "Rucksack", "zh": "背包"},
        "M7 9a5 5 0 0 1 10 0v10a2 2 0 0 1-2 2H9a2 2 0 0 1-2-2zM10 4.4a2 2 0 0 1 4 0M9.5 15h5v6h-5zM10 10h4",
    ),
)

CATALOG: Mapping[str, Item] = {item.id: item for item in _ITEMS}
"""Every item by its id."""
