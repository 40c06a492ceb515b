"""Draw objects on and beside a road: houses, walls, hedges, trees, vehicles.

Road frame and pixel coordinates: see scenes.py.
"""

from collections import namedtuple
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

CAMERA = np.array((0, -1.65, 0))  # viewpoint for lighting; approximate
NEAR_METRES = 0.5
FOCAL_PIXELS = 721.5377
OVERSAMPLING = 3
GLASS, TYRE, HUB = (38, 46, 54), (22, 22, 24), (120, 122, 126)

# Colours are RGB, 0..255; patches and grain are contrasts; a joint spacing of 0 means no joints.
Material = namedtuple("Material", "darkest brightest patches grain joint_metres")
MATERIALS = {
    "asphalt": Material((58, 60, 64), (150, 150, 150), 0.04, 0.07, 0),
    "concrete": Material((140, 137, 130), (190, 186, 176), 0.04, 0.05, 5),
    "brown": Material((92, 82, 74), (144, 130, 116), 0.05, 0.08, 0),
    "cobbles": Material((80, 78, 76), (140, 135, 130), 0.06, 0.14, 0.18),
    "slabs": Material((105, 102, 98), (180, 175, 166), 0.05, 0.05, 0.5),
    "kerb": Material((125, 125, 122), (190, 188, 182), 0.05, 0.06, 1),
    "grass": Material((46, 58, 28), (118, 122, 62), 0.12, 0.26, 0),
    "dirt": Material((92, 78, 60), (150, 130, 102), 0.1, 0.13, 0),
    "gravel": Material((105, 100, 94), (168, 162, 152), 0.06, 0.2, 0),
    "plaster": Material((130, 108, 86), (238, 232, 220), 0.04, 0.02, 0),
    "brick": Material((88, 52, 44), (166, 116, 96), 0.09, 0.12, 0.24),
    "leaves": Material((30, 42, 18), (92, 102, 46), 0.18, 0.4, 0),
    "tiles": Material((84, 48, 38), (128, 92, 80), 0.08, 0.06, 0.35),
    "wood": Material((60, 50, 40), (140, 120, 98), 0.1, 0.08, 0.12),
}
# fmt: off
FRONTAGES = {  # material, height range, depth and window spacing in metres; outline as in Look
    "hedge": ("leaves", (1, 3.5), 0.8, 0, 14), "wall": ("brick", (0.8, 2.6), 0.4, 0, 0),
    "fence": ("wood", (0.8, 1.8), 0.1, 0, 0), "house": ("plaster", (5, 13), 8, 2.8, 0),
}
VEHICLES = (  # length in metres; from rear to front: along (lengths), half widths, height (metres)
    (4.1, ((0, 1, 0.3), (0, 1, 0.9), (0.1, 0.8, 1.45), (0.55, 0.8, 1.47), (0.76, 0.97, 0.98),
           (1, 0.97, 0.8), (1, 0.97, 0.3))),
    (4.6, ((0, 1, 0.3), (0, 0.98, 0.95), (0.14, 0.97, 1), (0.28, 0.8, 1.42), (0.55, 0.8, 1.43),
           (0.72, 0.97, 0.98), (1, 0.97, 0.78), (1, 0.97, 0.3))),
    (4.9, ((0, 1, 0.35), (0, 1, 1.1), (0.02, 0.92, 1.95), (0.7, 0.92, 1.97), (0.85, 0.98, 1.15),
           (1, 0.98, 0.95), (1, 0.98, 0.35))),
)
BODY_COLOURS = ((225, 226, 228), (176, 180, 184), (120, 124, 130), (38, 40, 44), (28, 44, 88),
                (128, 26, 28), (52, 84, 66), (60, 90, 140), (196, 184, 150))
VEHICLE_DETAILS = (  # end (0 rear, 1 front), RGB, half widths to the left and the right, metres up
    (0, (150, 20, 18), 0.72, 0.97, 0.62, 0.88), (0, (150, 20, 18), -0.97, -0.72, 0.62, 0.88),
    (0, (210, 210, 205), -0.28, 0.28, 0.58, 0.7), (1, (25, 26, 28), -0.5, 0.5, 0.54, 0.72),
    (1, (225, 228, 230), 0.6, 0.92, 0.58, 0.75), (1, (225, 228, 230), -0.92, -0.6, 0.58, 0.75),
)
# fmt: on


# Shares of sunlight and of skylight, colours of the sky, exposure.
Light = namedtuple("Light", "direct ambient zenith low_sky clouds exposure")
# Footprint: ground points [n, 2] (x, z). paint: function (Canvas).
Thing = namedtuple("Thing", "footprint bottom_metres top_metres paint")
# Outline: 0 is a rectangle, else the exponent of a leafy oval (higher: squarer).
Look = namedtuple("Look", "material colour outline window_metres", defaults=(0, 0))


@dataclass(frozen=True)
class Canvas:
    """Picture float32 [H, W, 3] (0..255), depth float32 [H, W] in metres (infinite: no object)."""

    picture: np.ndarray
    depth: np.ndarray
    projection: np.ndarray
    noise: np.ndarray
    light: Light
    sun: np.ndarray

    def project(self, points):
        """Return u, v, depth [3, n] of points [n, 3], and slices of the picture around them."""
        u, v, depth = self.projection @ np.column_stack((points, np.ones(len(points)))).T
        flat = np.stack((u, v)) / np.maximum(depth, 1e-3)
        low = np.maximum(np.floor(flat.min(axis=1)).astype(int) - 2, 0)
        high = np.minimum(np.ceil(flat.max(axis=1)).astype(int) + 1, self.depth.shape[::-1])
        high = np.maximum(low, high) if depth.min() > NEAR_METRES else low
        return np.stack((*flat, depth)), np.s_[low[1] : high[1], low[0] : high[0]]

    def blend(self, window, colour, opaque, depth_metres):
        """Blend colour [..., 3] into a window, opacity 0..1, behind nearer objects."""
        opaque = opaque * (depth_metres < self.depth[window])
        colour = self.haze(colour, depth_metres)
        self.picture[window] += opaque[..., None] * (colour - self.picture[window])
        self.depth[window] = np.where(opaque > 0.5, depth_metres, self.depth[window])

    def haze(self, colour, depth_metres):
        """Return colour [..., 3] with the haze of a distance in metres."""
        clear = np.exp(np.asarray(depth_metres) / -350.0)[..., None]
        return 0.8 * np.array(self.light.low_sky, np.float32) * (1 - clear) + clear * colour

    def brightness(self, normal):
        """Return the light [3] on a face; normal [3]: of any length."""
        facing = normal @ self.sun / np.linalg.norm(normal)
        return np.array(self.light.ambient) + self.light.direct * max(0.15, facing)

    def grain(self, first, second):
        """Return noise (mean 0, deviation 1) at places in cells, arrays of one shape."""
        rows, columns = (
            np.floor(2 * place).astype(int) & (len(self.noise) - 1) for place in (first, second)
        )
        return self.noise[rows, columns]


def make_noise(generator):
    """Make periodic noise of several octaves: float32 [512, 512], mean 0, deviation 1."""
    white = generator.standard_normal((512, 512), dtype=np.float32)
    cycles = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512))
    octaves = np.maximum(cycles, 1 / 128)  # of equal amplitude
    weights = np.exp(-((4 * cycles) ** 2)) / octaves
    noise = np.fft.irfft2(np.fft.rfft2(white) * weights)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def pick(generator, table):
    """Draw a random row of a table."""
    return table[generator.integers(len(table))]


def pick_colour(generator, material):
    """Draw a random RGB colour [3] of a material."""
    low, high = np.array(MATERIALS[material][:2], dtype=float)
    return (low + generator.random() * (high - low)) * generator.uniform(0.96, 1.04, 3)


def on_plane(matrix, window):
    """Return plane coordinates and inverse depth, float64 [3, h, w], of a window of pixels.

    matrix [3, 3] maps (first, second, 1) to (u, v, 1) * depth. Where the inverse depth is <= 0 the
    pixel does not show the plane.
    """
    v, u = np.ogrid[window]
    first, second, inverse = (
        for_u * (u + 1.5) + (for_v * (v + 1.5) + constant)
        for for_u, for_v, constant in np.linalg.inv(matrix)
    )
    safe = np.maximum(inverse, 1e-6)
    return np.stack((first / safe, second / safe, inverse))


def make_block(generator, near, far, side, material, heights, depth, window_metres, outline):
    """Make a block with its front between two ground points [3]; a house has a roof."""
    height, back = generator.uniform(*heights), np.array((side * depth, 0, 0))
    up, rise = np.array((0, -height, 0)), back / 2 - (0, 0.3 * depth, 0)
    look = Look(material, pick_colour(generator, material), outline, window_metres)
    parts = [
        partial(paint_panel, corner=near, along=along, up=up, look=look)
        for along in (far - near, back)
    ]
    if window_metres:
        gable = near + up + np.array(((0, 0, 0), back, rise))[::side]
        roof = Look("tiles", pick_colour(generator, "tiles"))
        parts += [
            partial(paint_faces, faces=[(gable, look.colour)]),
            partial(paint_panel, corner=near + up, along=far - near, up=rise, look=roof),
        ]
    footprint = np.array((near, far, far + back, near + back))[:, [0, 2]]
    return Thing(footprint, 0, height, partial(paint_all, parts=parts))


def make_tree(generator, x, z):
    """Make a tree or a post at a ground point (metres)."""
    (height, radius), foot = generator.uniform((5, 1.4), (12, 3.5)), np.array((x, 0, z))
    trunk = Look("wood", pick_colour(generator, "wood"))
    crown = Look("leaves", pick_colour(generator, "leaves"), 2)

    def panel(shift, width, rise, look):
        along, up = np.array((width, 0, 0)), np.array((0, -rise, 0))
        return partial(paint_panel, corner=foot + shift, along=along, up=up, look=look)

    parts = [panel((-0.12, 0, 0), 0.24, 0.7 * height, trunk)]
    if generator.random() < 0.2:
        return Thing(oval((x, z), (0.1, 0), (0, 0.1), 8), 0, height, parts[0])
    for shift, share in ((0.4, 0.8), (-0.45, 0.75), (0.0, 1.1)):
        corner = np.array(((shift - share) * radius, -0.22 * height, -0.1 * share))
        parts.append(panel(corner, 2 * share * radius, 0.75 * share * height, crown))
    rim = oval((0, 0), (radius, 0), (0, radius), 24) * generator.uniform(0.4, 1.2, (24, 1))
    return Thing(rim + (x, z), height * 0.5, height * 0.85, partial(paint_all, parts=parts))


def make_vehicle(generator, street, x, z, turn=0.0):
    """Make a car or van at a ground point (metres); turn: radians from the road's direction."""
    length, outline = pick(generator, VEHICLES)
    heading = np.arctan(np.polyval(np.polyder(street.centre), z)) + turn
    half_width, sine, cosine = generator.uniform(0.82, 0.93), np.sin(heading), np.cos(heading)
    ahead = (length * sine, 0, length * cosine)
    axes = np.array((ahead, (half_width * cosine, 0, -half_width * sine), (0, -1, 0)))
    corner = np.array((x, 0, z)) - axes[0] / 2
    footprint = (corner + np.array(((0, -1), (1, -1), (1, 1), (0, 1))) @ axes[:2])[:, [0, 2]]
    faces = vehicle_faces(np.array(outline), np.array(pick(generator, BODY_COLOURS)))
    placed = [(corner + np.array(points) @ axes, colour) for points, colour in faces]
    return Thing(footprint, 0, outline[2][2], partial(paint_faces, faces=placed))


def vehicle_faces(outline, body):
    """Return a vehicle's faces (points in lengths, half widths, metres; RGB) in painting order."""
    left, right = outline * (1, -1, 1), outline
    faces = []
    for i in range(len(outline) - 1):
        quad = np.array((left[i], right[i], right[i + 1], left[i + 1]))
        faces.append((quad, body))
        if (right[i, 1] < 0.95) != (right[i + 1, 1] < 0.95):
            faces.append((shrink(quad, 0.86), GLASS))
    for end, colour, start, stop, low, high in VEHICLE_DETAILS:
        corners = [(end, start, low), (end, stop, low), (end, stop, high), (end, start, high)]
        faces.append((corners[:: 1 - 2 * end], colour))
    roof = np.flatnonzero(outline[:, 1] < 0.95)
    for side, points in ((-1, left), (1, right)):
        cabin = shrink(points[roof[0] - 1 : roof[-1] + 2], 0.84)
        faces += [(points[::-side], body), (cabin[::-side], GLASS)]
        for middle in (0.19, 0.81):
            hub = middle, 1.01 * side, 0.33
            for radius, colour in ((0.33, TYRE), (0.19, HUB)):
                faces.append((oval(hub, (radius / 4.4, 0, 0), (0, 0, side * radius)), colour))
    return faces


def oval(middle, first, second, corners=16):
    """Return points [corners, n] of an oval; middle and two half axes: [n]."""
    turns = np.linspace(0, 2 * np.pi, corners, endpoint=False)[:, None]
    return middle + np.cos(turns) * np.array(first) + np.sin(turns) * np.array(second)


def shrink(points, share):
    """Scale points [n, 3] about their mean."""
    return points.mean(axis=0) + share * (points - points.mean(axis=0))


def paint_all(canvas, parts):
    """Paint the parts of a thing in order."""
    for part in parts:
        part(canvas)


def paint_panel(canvas, corner, along, up, look):
    """Paint the rectangle spanned by `along` and `up` [3] at a corner [3], in metres."""
    _, window = canvas.project(corner + np.array((0 * up, along, along + up, up)))
    length, height = np.linalg.norm(along), np.linalg.norm(up)
    matrix = canvas.projection @ np.array(((*along, 0), (*up, 0), (*corner, 1))).T
    s, t, inverse = on_plane(matrix, window)
    metres = s * length + np.abs(corner).sum(), t * height  # each panel has its own noise
    fine = canvas.grain(metres[0] / 0.06, metres[1] / 0.06)
    coarse = canvas.grain(metres[0] / 0.5 + 0.3 * fine, metres[1] / 0.5 + 0.3 * fine)
    material = MATERIALS[look.material]
    value = 1 + material.grain * fine + material.patches * coarse
    value *= joints(metres[1], material.joint_metres, inverse)
    opaque = (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    if look.outline:
        value = np.maximum(value * (0.6 + 0.6 * t), 0.15)  # the sky lights leaves from above
        reach = np.abs(2 * s - 1) ** look.outline + np.abs(2 * t - 1) ** look.outline
        rim = 10 * (0.65 - reach) + 2.2 * np.minimum(fine + coarse, 1.5)
        opaque = opaque * np.clip(rim, 0, 1)
    colour = value[..., None] * look.colour
    if look.window_metres:
        colour[is_pane(*metres, look.window_metres)] = GLASS
    normal = np.cross(along, up)
    normal = normal * np.sign(normal @ (CAMERA - corner))
    depth = 1 / np.maximum(inverse, 1e-4)
    canvas.blend(window, colour * canvas.brightness(normal), opaque, depth)


def joints(metres, spacing_metres, inverse_depth):
    """Return the brightness (0..1) of joints (spacing 0: none); fine ones fade out."""
    if spacing_metres == 0:
        return 1.0
    fade = np.clip(spacing_metres * FOCAL_PIXELS * inverse_depth / 12, 0, 1)
    return 1 - 0.25 * fade * (metres % spacing_metres < min(0.1 * spacing_metres, 0.04))


def is_pane(along, up, spacing_metres):
    """Return where a facade (metres along and up) has window panes: bool."""
    return (np.abs(along / spacing_metres % 1 - 0.5) < 0.2) & (np.abs(up / 2.9 % 1 - 0.58) < 0.24)


def paint_faces(canvas, faces):
    """Paint the polygons (road-frame points [n, 3], RGB) that face the camera, in order."""
    every, window = canvas.project(np.concatenate([points for points, _ in faces]))
    height, width = canvas.depth[window].shape
    if height * width == 0:
        return
    image = Image.new("RGBA", (width * OVERSAMPLING, height * OVERSAMPLING))
    draw = ImageDraw.Draw(image)
    corners = (every[:2].T - 1 - (window[1].start, window[0].start)) * OVERSAMPLING
    ends = np.cumsum([len(points) for points, _ in faces])
    for flat, (points, colour) in zip(np.split(corners, ends[:-1]), faces, strict=True):
        after = np.roll(flat, -1, axis=0)
        if (flat[:, 0] * after[:, 1] - flat[:, 1] * after[:, 0]).sum() < 0:
            normal = np.cross(points[2] - points[1], points[1] - points[0])
            lit = np.minimum(canvas.brightness(normal) * colour, 255)
            draw.polygon([*flat.ravel()], tuple(lit.astype(int)))
    pixels = np.asarray(image.reduce(OVERSAMPLING), dtype=np.float32)
    canvas.blend(window, pixels[..., :3], pixels[..., 3] / 255, every[2].min())
