"""Project a picture to the ground plane, the view that KITTI ranks by.

The plane is y = 0 of the road frame: x to the right, z ahead, in metres
(cvlibs.net/datasets/kitti/eval_road.php). NumPy only.
"""

import numpy as np

from roadseg.data import calibration_files

X_METRES = (-10.0, 10.0)
Z_METRES = (6.0, 46.0)
CELL_METRES = 0.05


def find_places(calibration, height, width):
    """Find the pixel of each cell of the ground.

    height, width: of the picture. Returns int64 [800, 400] of indices into the flattened picture,
    -1 for cells outside of it. The first row is the farthest, the first column the left.
    """
    half = CELL_METRES / 2
    x = np.arange(X_METRES[0] + half, X_METRES[1], CELL_METRES)
    z = np.arange(Z_METRES[1] - half, Z_METRES[0], -CELL_METRES)
    ground = calibration_files.project_road(calibration)[:, [0, 2, 3]]  # y is 0
    across, ahead = ground[:, 0, None] * x, ground[:, 1, None] * z + ground[:, 2, None]
    u, v, depth = ahead[:, :, None] + across[:, None, :]
    u, v = u / depth, v / depth
    inside = (depth > 0) & (u >= 1) & (u <= width) & (v >= 1) & (v <= height)
    row, column = (np.where(inside, place, 0).astype(np.int64) - 1 for place in (v, u))
    return np.where(inside, row * width + column, -1)


def look_down(array, places, unseen=0):
    """Resample [H, W] or [H, W, channels] to the view from above, by nearest neighbour.

    places: of `find_places`; unseen: value of cells outside of the picture.
    """
    flat = array.reshape(-1, *array.shape[2:])
    seen = flat[np.maximum(places, 0)]
    seen[places < 0] = unseen
    return seen
