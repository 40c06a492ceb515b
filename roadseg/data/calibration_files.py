"""KITTI's calibration files: map the ground to pixels (cvlibs.net/datasets/kitti/eval_road.php)."""

import numpy as np

from roadseg.data.pictures import picture_shape

MATRICES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_cam_to_road": (3, 4)}


def read_calibration(path):
    """Read those matrices of a KITTI calibration file that the ground plane needs.

    Returns {"P2": float64 [3, 4], "R0_rect": [3, 3], "Tr_cam_to_road": [3, 4]}. Raises ValueError
    and OSError.
    """
    lines = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    texts = {name.strip(): text for name, text in lines}
    matrices = {}
    for name, shape in MATRICES.items():
        numbers = np.array(texts.get(name, "").split(), float)
        if numbers.size != np.prod(shape) or not np.isfinite(numbers).all():
            raise ValueError(
                f"{name} has {numbers.size} numbers; expected {np.prod(shape)} finite ones"
            )
        matrices[name] = numbers.reshape(shape)
    if abs(np.linalg.det(matrices["Tr_cam_to_road"][:, :3])) < 1e-6:
        raise ValueError("Tr_cam_to_road has no rotation")
    return matrices


def check_size(calibration, height, width):
    """Raise ValueError where a calibration can't be that of a picture of this size, pixels.

    A camera's axis meets its picture somewhere in the middle half, even where borders were cut off.
    """
    across, down = calibration["P2"][:2, 2] / calibration["P2"][2, 2]
    if not (width / 4 < across < 3 * width / 4 and height / 4 < down < 3 * height / 4):
        raise ValueError(
            f"its camera looks at pixel ({across:.0f}, {down:.0f}), off the middle of a picture of "
            f"{width}x{height}; expected the calibration of a picture of this size"
        )


def project_road(calibration):
    """Return the matrix [3, 4] that maps road-frame (x, y, z, 1), metres, to (u, v, 1) * depth.

    u, v: pixels; (1, 1) is the centre of the first.
    """
    rectify, to_road = np.eye(4), np.eye(4)
    rectify[:3, :3], to_road[:3] = calibration["R0_rect"], calibration["Tr_cam_to_road"]
    return calibration["P2"] @ rectify @ np.linalg.inv(to_road)


def read_calibrations(samples):
    """Read the calibration files of samples, where their data set has any.

    Returns ({sample's name: matrices}, {sample's name: error, one line}), damaged files before
    missing ones.
    """
    calibrations, broken, missing = {}, {}, {}
    for sample in samples:
        if sample.calibration:
            try:
                calibration = read_calibration(sample.calibration)
                check_size(calibration, *picture_shape(sample.picture))
                calibrations[sample.name] = calibration
            except FileNotFoundError as error:
                missing[sample.name] = f"{sample.calibration}: {error.strerror}"
            except (OSError, ValueError) as error:
                broken[sample.name] = f"{sample.calibration}: {error}"
    return calibrations, broken | missing
