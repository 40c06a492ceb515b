"""Draw road scenes in KITTI's layout, with exact labels and matching calibration.

Road frame: x to the right, y down, z ahead, in metres; the ground is y = 0. Pixel coordinates
u, v count from 1, as in KITTI: the pixel in column c and row r has its centre at c + 1.5, r + 1.5.
"""

import json
import os
import shutil
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial.transform import Rotation

from roadseg import terminal
from roadseg.data.calibration_files import project_road
from roadseg.drawn.scenery import (
    CAMERA,
    FOCAL_PIXELS,
    MATERIALS,
    Canvas,
    Light,
    joints,
    make_noise,
    on_plane,
    paint_all,
    pick,
)
from roadseg.drawn.streets import ROADS, make_frontage, make_roadside, make_street, make_traffic
from roadseg.errors import UserError

DRAWING_VERSION = 1
KITTI_SIZES = ((375, 1242), (370, 1224), (374, 1238), (376, 1241))
CATEGORIES = ("um", "umm", "uu")
# fmt: off
DATA_SET_FOLDERS = ("training/image_2", "training/gt_image_2", "training/calib",
                    "testing/image_2", "testing/calib")
ROAD, NOT_ROAD, NOT_VALID = (255, 0, 255), (255, 0, 0), (0, 0, 0)
PRINCIPAL_PIXELS = (609.5593, 172.854)
CAMERAS_METRES = {"P0": (0, 0, 0), "P1": (-0.5372, 0, 0),
                  "P2": (0.0598, -0.0004, 0.0027), "P3": (-0.4731, 0.0024, 0.0027)}
SENSORS = {"Tr_velo_to_cam": ((0, -1, 0, -0.004), (0, 0, -1, -0.076), (1, 0, 0, -0.272)),
           "Tr_imu_to_velo": ((1, 0, 0, -0.809), (0, 1, 0, 0.32), (0, 0, 1, -0.8))}
GROUND_END_METRES = 250.0
SHADOW_CELL_METRES, SHADOW_CELLS, SHADOW_CORNER_METRES = 0.15, (600, 900), (-45.0, -15.0)
PAINT = (226, 227, 220)

LIGHTS = (  # sky colours over 255 are overexposed
    Light(0.85, (0.27, 0.3, 0.35), (84, 140, 225), (205, 228, 250), 0.3, (0.9, 1.25)),
    Light(0.95, (0.22, 0.24, 0.27), (205, 225, 250), (275, 275, 270), 0.4, (0.9, 1.35)),
    Light(0.7, (0.36, 0.38, 0.4), (140, 175, 225), (235, 238, 240), 0.9, (0.9, 1.2)),
    Light(0.1, (0.72, 0.74, 0.77), (176, 184, 196), (226, 230, 234), 0.5, (0.75, 1.15)),
    Light(0.35, (0.38, 0.34, 0.35), (96, 112, 158), (238, 196, 150), 0.6, (0.9, 1.2)),
)
# fmt: on


@dataclass(frozen=True)
class Scene:
    """Picture and label uint8 [H, W, 3], calibration {KITTI's key: float64 matrix}."""

    picture: np.ndarray
    label: np.ndarray
    calibration: dict


def make_calibration(generator, shape):
    """Draw KITTI's matrices (float64). Returns them and the picture's (height, width)."""
    full = pick(generator, KITTI_SIZES)
    height, width = shape or full
    scale = np.diag((width / full[1], height / full[0], 1.0))
    scale[:2, 2] = 1 - np.diag(scale)[:2]  # pixel coordinates count from 1
    intrinsic = np.diag((FOCAL_PIXELS, FOCAL_PIXELS, 1.0))
    intrinsic[:2, 2] = PRINCIPAL_PIXELS + generator.uniform(-3, 3, 2)
    rectify = Rotation.from_euler("xyz", generator.uniform(-0.6, 0.6, 3), degrees=True).as_matrix()
    aim = Rotation.from_euler("xyz", generator.uniform(-1, 1, 3) * (1.2, 1.0, 0.8), degrees=True)
    calibration = {
        key: scale @ intrinsic @ np.column_stack((np.eye(3), place))
        for key, place in CAMERAS_METRES.items()
    }
    calibration["R0_rect"] = rectify
    calibration |= {key: np.array(rows, dtype=float) for key, rows in SENSORS.items()}
    calibration["Tr_cam_to_road"] = np.column_stack(
        (aim.as_matrix().T @ rectify, (0, -generator.uniform(1.55, 1.75), 0.27))
    )
    return calibration, (height, width)


def calibration_text(calibration):
    """Return the text of KITTI's calibration file: one matrix a line, row-major."""
    return "".join(
        f"{key}: {' '.join(f'{number:.12e}' for number in matrix.ravel())}\n"
        for key, matrix in calibration.items()
    )


def make_sun(generator):
    """Draw a unit vector [3] towards the sun, road frame."""
    turn, rise = generator.uniform((0, 0.5), (2 * np.pi, 1.1))
    return np.array((np.cos(rise) * np.sin(turn), -np.sin(rise), np.cos(rise) * np.cos(turn)))


def shadow_maps(things, sun):
    """Return cast and contact shadows (0..1), two float32 maps of the ground [z, x]."""
    images = [Image.new("L", SHADOW_CELLS) for _ in range(2)]
    direct, contact = (ImageDraw.Draw(image) for image in images)
    for thing in things:
        base = thing.footprint - SHADOW_CORNER_METRES
        low, high = (
            (base + height * sun[[0, 2]] / sun[1]) / SHADOW_CELL_METRES
            for height in (thing.bottom_metres, thing.top_metres)
        )
        direct.polygon([*high.ravel()], 255)
        for i in range(len(base)):
            direct.polygon([*np.concatenate((low[i - 1], low[i], high[i], high[i - 1]))], 255)
        if thing.bottom_metres == 0:
            contact.polygon([*base.ravel() / SHADOW_CELL_METRES], 255)
    return [
        ndimage.gaussian_filter(np.asarray(image, dtype=np.float32) / 255, sigma)
        for image, sigma in zip(images, (0.8, 1.6), strict=True)
    ]


def ground_light(canvas, x, z, maps, rough):
    """Return the light [n, 3] on ground points (metres); rough shifts shadows, in cells."""
    places = [
        (metres - corner) / SHADOW_CELL_METRES + rough
        for metres, corner in zip((z, x), SHADOW_CORNER_METRES[::-1], strict=True)
    ]
    direct, contact = (ndimage.map_coordinates(shade, places, order=1) for shade in maps)
    sunny = canvas.light.direct * -canvas.sun[1] * (1 - np.clip(1.6 * direct - 0.3, 0, 1))
    sky = np.array(canvas.light.ambient, np.float32)
    return sky * (1 - 0.75 * contact)[:, None] + sunny[:, None]


def paint_ground(generator, canvas, street, ground, lateral, maps):
    """Paint the pixels of the ground (ground [3, H, W], lateral [H, W], in metres)."""
    shown = ground[2] > 1 / GROUND_END_METRES
    strip = np.searchsorted(street.edges_metres, lateral[shown])
    strip[street.in_side_road(lateral[shown], ground[1][shown])] = street.road_strip
    x, z, inverse, lateral = (a[shown].astype(np.float32) for a in (*ground, lateral))
    fine = canvas.grain(x / 0.05, z / 0.08)
    coarse = canvas.grain(x / 0.5 + 0.2 * fine, z / 0.7 + 0.2 * fine)
    traits = np.array([MATERIALS[name][2:] for name in street.materials], np.float32)
    patches, grain, spacing = traits.T[:, strip]
    value = 1 + np.minimum(1, 25 * inverse) * (patches * coarse + grain * fine)
    for metres in np.unique(traits[traits[:, 2] > 0, 2]):
        here = spacing == metres
        for place in (z, lateral):
            value[here] *= joints(place[here], metres, inverse[here])
    road = strip == street.road_strip
    value[road] *= wear(generator, canvas, street, lateral[road], z[road], coarse[road])
    colour = street.colours.astype(np.float32)[strip] * value[:, None]
    paint = road & is_painted(street, lateral, z) & (fine + coarse < street.paint_left)
    colour[paint] = np.array(PAINT) * value[paint, None]
    lit = colour * ground_light(canvas, x, z, maps, coarse + 0.5 * fine)
    canvas.picture[shown] = canvas.haze(lit, z)


def is_painted(street, lateral, z):
    """Return which places (metres) are a painted line or a crossing's stripe: bool."""
    painted = np.zeros(lateral.shape, bool)
    if street.crossing_metres is not None:
        painted |= (np.abs(z - street.crossing_metres) < 1.6) & (lateral % 1.0 < 0.5)
        painted &= np.abs(lateral) < street.half_width_metres
    for place, half_width, dash, period in street.lines_metres:
        painted |= (np.abs(lateral - place) < half_width) & ((z + place) % period < dash)
    return painted


def wear(generator, canvas, street, lateral, z, coarse):
    """Draw the wear of a road, brightness [n]: tracks, streaks, cracks, patches, covers."""
    tracks, cracks = generator.random(2) * (0.1, 0.4)
    streak = canvas.grain(lateral / 0.25, z / 6)
    value = 1 - tracks * np.cos(lateral * (4 * np.pi / street.lane_metres)) + 0.04 * streak
    value *= 1 - cracks * (np.abs(coarse) < 0.025) * (streak > 0.3)
    for _ in range(generator.integers(6)):
        place = generator.uniform(-1, 1) * street.half_width_metres
        range_metres, change = generator.uniform(6, 40), generator.uniform(-0.25, 0.15)
        width, length = pick(generator, ((0.3, 0.3), (0.8, 3.0), (1.5, 9.0)))
        inside = (np.abs(lateral - place) < width) & (np.abs(z - range_metres) < length)
        value *= 1 + change * inside
    return value


def paint_sky(generator, canvas, inverse_depth):
    """Paint sky, clouds and hills beyond the ground; inverse_depth: [H, W]."""
    shown = inverse_depth <= 1 / GROUND_END_METRES
    across = np.linspace(0, 1, shown.shape[1], dtype=np.float32)
    hills = generator.uniform(0.005, 0.05) + 0.008 * canvas.grain(120 * across, 0 * across)
    across, hills = (np.broadcast_to(row, shown.shape)[shown] for row in (across, hills))
    elevation = CAMERA[1] * inverse_depth[shown].astype(np.float32)
    low, high = np.array((canvas.light.low_sky, canvas.light.zenith), np.float32)
    fine = canvas.grain(300 * across, 1200 * elevation)
    clouds = canvas.grain(60 * across + 0.3 * fine, 300 * elevation + 0.3 * fine)
    blue = np.clip(elevation / 0.24, 0, 1) * (1 - canvas.light.clouds * np.clip(clouds, 0, 1))
    wood = (low * 0.25 + np.float32((10, 15, 8))) * (1 + 0.2 * fine[:, None])
    sky = low + blue[:, None] * (high - low)
    canvas.picture[shown] = np.where((elevation < hills)[:, None], wood, sky)


def make_label(canvas, street, ground, lateral):
    """Return KITTI's label uint8 [H, W, 3]; side roads and far road are not valid."""
    road = np.abs(lateral) < street.half_width_metres
    far = road & (ground[1] > street.label_range_metres)
    free = (ground[2] > 0) & np.isinf(canvas.depth)
    label = np.full((*free.shape, 3), NOT_ROAD, dtype=np.uint8)
    label[free & road] = ROAD
    label[free & (far | street.in_side_road(lateral, ground[1]))] = NOT_VALID
    return label


def expose(generator, canvas):
    """Apply exposure, colour cast, blur, contrast and noise. Returns uint8 [H, W, 3]."""
    gain = generator.uniform(*canvas.light.exposure) * generator.uniform(0.97, 1.03, 3)
    sigma = generator.uniform(0.4, 0.8) * canvas.depth.shape[0] / KITTI_SIZES[0][0]
    picture = canvas.picture * gain.astype(np.float32)
    picture = ndimage.gaussian_filter(picture, (sigma, sigma, 0), truncate=3.0)
    picture = 255 * np.clip(picture / 255, 0, 1) ** np.float32(generator.uniform(0.9, 1.3))
    noise = generator.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture + noise * generator.uniform(1.5, 5), 0, 255).astype(np.uint8)


def draw_scene(category, index, seed=0, shape=None):
    """Draw a Scene, the same for the same arguments.

    category: of CATEGORIES; index, seed: int; shape: (height, width) with the same field of view,
    None: one of KITTI's. Raises ValueError for an unknown category.
    """
    generator = np.random.default_rng([seed, CATEGORIES.index(category), index])
    calibration, size = make_calibration(generator, shape)
    kind, light = ROADS[category], pick(generator, LIGHTS)
    street, sun = make_street(generator, kind), make_sun(generator)
    empty, far_away = np.zeros((*size, 3), np.float32), np.full(size, np.inf, np.float32)
    noise = make_noise(generator)
    canvas = Canvas(empty, far_away, project_road(calibration), noise, light, sun)
    things = make_traffic(generator, street, kind)
    for side in (-1, 1):
        things += make_frontage(generator, street, kind, side)
        things += make_roadside(generator, street, kind, side)
    ground = on_plane(canvas.projection[:, [0, 2, 3]], np.s_[: size[0], : size[1]])
    lateral = ground[0] - street.centre_metres(ground[1])
    paint_sky(generator, canvas, ground[2])
    paint_ground(generator, canvas, street, ground, lateral, shadow_maps(things, sun))
    far_first = sorted(things, key=lambda thing: -thing.footprint[:, 1].mean())
    paint_all(canvas, [thing.paint for thing in far_first])
    label = make_label(canvas, street, ground, lateral)
    return Scene(expose(generator, canvas), label, calibration)


def save_scene(folder, category, index, shape):
    """Write a scene into a folder that has image_2, calib and optionally gt_image_2."""
    scene, name = draw_scene(category, index, shape=shape), f"{category}_{index:06d}"
    text = calibration_text(scene.calibration)
    (folder / "calib" / f"{name}.txt").write_text(text, encoding="ascii", newline="\n")
    Image.fromarray(scene.picture).save(folder / "image_2" / f"{name}.png", compress_level=1)
    if (folder / "gt_image_2").is_dir():
        path = folder / "gt_image_2" / f"{category}_road_{index:06d}.png"
        Image.fromarray(scene.label).save(path, compress_level=1)


def is_drawn(folder, recipe):
    """Return whether a folder was drawn by a recipe (dict). Raises UserError if not drawn."""
    record = folder / "drawn.json"
    if not record.is_file() and folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder}: holds files that were not drawn (no drawn.json); move them away, or "
            "give another --data-dir"
        )
    return record.is_file() and json.loads(record.read_text()) == recipe


def draw_data_set(folder, training, testing, shape=None):
    """Write a data set in KITTI's layout, unless the folder holds it already.

    training, testing: number of scenes of um, umm and uu; indices of testing follow training's.
    shape: see `draw_scene`. Raises UserError if the folder holds files that were not drawn.
    """
    counts = {"training": list(training), "testing": list(testing)}
    recipe = {"version": DRAWING_VERSION, "seed": 0, **counts, "shape": shape and list(shape)}
    if is_drawn(folder, recipe):
        return
    # Of this process alone: another may be drawing the same.
    unfinished = folder.with_name(f"{folder.name}.part{os.getpid()}")
    jobs = [
        ("training" if index < first else "testing", category, index)
        for category, first, more in zip(CATEGORIES, training, testing, strict=True)
        for index in range(first + more)
    ]
    try:
        for part in DATA_SET_FOLDERS:
            (unfinished / part).mkdir(parents=True)
        for part, category, index in terminal.progress(jobs, desc="drawing", unit="scene"):
            save_scene(unfinished / part, category, index, shape)
        (unfinished / "drawn.json").write_text(json.dumps(recipe) + "\n")
        if not is_drawn(folder, recipe):
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
