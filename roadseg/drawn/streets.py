"""Random streets: where the road runs, of what it is made, what stands beside it and drives on it.

Road frame: see scenes.py.
"""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np

from roadseg.drawn.scenery import FRONTAGES, make_block, make_tree, make_vehicle, pick, pick_colour

LOOKALIKES = ("asphalt", "slabs", "gravel")

# fmt: off
# Ranges are (low, high); parked_outside: distance of vehicles from the road's edge.
Category = namedtuple("Category", "lanes lane_metres marked surfaces frontages parked_share "
                                  "parked_outside_metres moving_vehicles")
ROADS = {
    "um": Category((2, 2), (3, 3.8), True, ("asphalt", "asphalt", "concrete", "brown"),
                   ("hedge", "wall", "fence", "house", "open", "open"), 0.12, (1.2, 1.8), 3),
    "umm": Category((3, 4), (2.8, 3.4), True, ("asphalt", "asphalt", "asphalt", "concrete"),
                    ("hedge", "wall", "house", "open", "open"), 0.06, (1.2, 2), 6),
    "uu": Category((2, 2), (2.2, 3.1), False,
                   ("asphalt", "asphalt", "concrete", "brown", "cobbles"),
                   ("hedge", "wall", "fence", "house", "house", "open"), 0.4, (-1, 1.3), 1),
}
ROADSIDES = (  # material, mean width in metres, from the road outwards; the last has no end
    (("kerb", 0.2), ("slabs", 2.2), ("grass", 3)),
    (("kerb", 0.2), ("asphalt", 2), ("dirt", 1)),
    (("gravel", 0.8), ("grass", 6)),
    (("kerb", 0.2), ("grass", 2), ("slabs", 2), ("grass", 2)),
    (("cobbles", 0.4), ("slabs", 2.4), ("dirt", 1)),
    (("grass", 7),),
    (("kerb", 0.2), ("asphalt", 2.4), ("kerb", 0.2), ("slabs", 2), ("gravel", 2)),
    (("cobbles", 0.3), ("gravel", 3), ("grass", 5)),
)
# fmt: on

# side: -1 left, 1 right.
SideRoad = namedtuple("SideRoad", "side range_metres half_width_metres")


@dataclass(frozen=True)
class Street:
    """A road: cubic centre line, strips from left to right, painted lines."""

    centre: np.ndarray
    half_width_metres: float
    lane_metres: float
    edges_metres: np.ndarray
    materials: tuple
    colours: np.ndarray
    road_strip: int
    lines_metres: tuple
    side_road: SideRoad | None
    crossing_metres: float | None  # its range
    paint_left: float
    label_range_metres: float

    def centre_metres(self, z):
        """Return x of the centre line at range z (metres, any shape); constant beyond 120 m."""
        return np.polyval(self.centre, np.minimum(z, 120.0))

    def in_side_road(self, lateral, z):
        """Return which places (metres right of the centre line, range) are side road: bool."""
        if self.side_road is None:
            return np.zeros(np.broadcast(lateral, z).shape, bool)
        side, range_metres, half_width_metres = self.side_road
        beyond = side * lateral - self.half_width_metres
        flare = 3 * np.exp(-np.maximum(beyond, 0))
        return (beyond > 0) & (np.abs(z - range_metres) < half_width_metres + flare)


def make_side(generator, road_colour):
    """Draw one side's strips: materials, outer edges (metres from the road), colours."""
    names, widths = zip(*pick(generator, ROADSIDES), strict=True)
    colours = [pick_colour(generator, name) for name in names]
    for i, name in enumerate(names):
        if name in LOOKALIKES:
            like_road = road_colour * generator.uniform(0.9, 1.15)
            colours[i] = colours[i] + generator.random() * (like_road - colours[i])
    return names, np.cumsum(widths * generator.uniform(0.7, 1.5, len(widths))), colours


def make_lines(generator, lanes, lane_metres):
    """Draw painted lines along the road: (lateral, half width, dash, period), in metres."""
    period, half_width = generator.uniform(6, 14), generator.uniform(0.05, 0.09)
    places = (np.arange(lanes + 1) - lanes / 2) * lane_metres
    places[[0, -1]] += np.array((1, -1)) * generator.uniform(0.15, 0.4)
    dashes = generator.choice((1.0, 0.5, 0.4, 0.33), lanes + 1)
    dashes[[0, -1]] = generator.random(2) < 0.6
    return tuple(
        (place, half_width, dash * period, period)
        for place, dash in zip(places, dashes, strict=True)
    )


def make_street(generator, category):
    """Draw a random Street; the camera (x = 0, z = 0) is on its right half."""
    lanes = int(generator.integers(category.lanes[0], category.lanes[1] + 1))
    lane_metres = generator.uniform(*category.lane_metres)
    half_width = lanes * lane_metres / 2
    camera = (generator.integers(lanes // 2, lanes) + 0.5 - lanes / 2) * lane_metres
    surface = pick(generator, category.surfaces)
    colour = pick_colour(generator, surface)
    left, right = make_side(generator, colour), make_side(generator, colour)
    side_road = SideRoad(
        generator.choice((-1, 1)), generator.uniform(10, 50), generator.uniform(2.5, 4)
    )
    return Street(
        centre=generator.normal((0, 0, 0, -camera), (2e-5, 2.4e-3, 0.03, 0.35)),
        half_width_metres=half_width,
        lane_metres=lane_metres,
        edges_metres=np.concatenate(
            (-half_width - left[1][-2::-1], (-half_width, half_width), half_width + right[1][:-1])
        ),
        materials=(*left[0][::-1], surface, *right[0]),
        colours=np.array((*left[2][::-1], colour, *right[2])),
        road_strip=len(left[0]),
        lines_metres=make_lines(generator, lanes, lane_metres) if category.marked else (),
        side_road=side_road if generator.random() < 0.5 else None,
        crossing_metres=generator.uniform(8, 40) if generator.random() < 0.12 else None,
        paint_left=generator.uniform(0.3, 3),
        label_range_metres=generator.uniform(58, 72),
    )


def make_frontage(generator, street, category, side):
    """Draw houses, walls, hedges and fences; side: -1 left, 1 right."""
    reach = side * np.abs(street.edges_metres[(side - 1) // 2]) + side * generator.uniform(1, 4)
    kinds = generator.choice(category.frontages, 2)
    start, things = generator.uniform(3, 6), []
    while start < 115:
        end = start + generator.uniform(8, 20)
        kind = kinds[int(generator.random() < 0.3)]
        blocked = street.in_side_road(reach, np.linspace(start - 3, end + 3, 30)).any()
        if kind in FRONTAGES and not blocked:
            near, far = (np.array((street.centre_metres(z) + reach, 0, z)) for z in (start, end))
            things.append(make_block(generator, near, far, side, *FRONTAGES[kind]))
        start = end + generator.choice((0, 0, 3, 6))
    return things


def make_roadside(generator, street, category, side):
    """Draw parked vehicles, trees and posts; side: -1 left, 1 right."""
    tree_share, things = generator.choice((0.1, 0.25, 0.5, 0.9)), []
    for z in np.arange(generator.uniform(6, 14), 110, 6.3):
        edge = street.centre_metres(z) + side * street.half_width_metres
        parked, tree = generator.random(2) < (category.parked_share, tree_share)
        outside = generator.uniform(*category.parked_outside_metres), generator.uniform(2, 6)
        if street.in_side_road(side * (street.half_width_metres + 1), z + np.array((-4, 4))).any():
            continue
        if parked:
            things.append(make_vehicle(generator, street, edge + side * outside[0], z))
        if tree:
            things.append(make_tree(generator, edge + side * outside[1], z + 3))
    return things


def make_traffic(generator, street, category):
    """Draw vehicles on the road, oncoming ones on its left half."""
    count, things = generator.integers(category.moving_vehicles + 1), []
    for z in generator.choice(np.arange(13, 90, 11.0), count, replace=False):
        side = generator.choice((-1, 1))
        x = street.centre_metres(z) + side * street.half_width_metres * generator.uniform(0.3, 0.7)
        things.append(make_vehicle(generator, street, x, z, np.pi * (side < 0)))
    return things
