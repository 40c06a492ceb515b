"""Drawn pictures and videos to measure and try a network with."""

import functools

import imageio.v3 as imageio
import numpy as np

from roadseg.drawn.scenes import draw_scene

DIFFERENT = 4  # pictures of one shape that are drawn; then they repeat
PAN = 4  # pixels from one frame of a video to the next
FRAME_RATE = 10


@functools.cache
def draw(shape):
    """Draw DIFFERENT pictures: uint8 [N, H, W, 3]; shape: (height, width)."""
    return np.stack([draw_scene("um", number, shape=shape).picture for number in range(DIFFERENT)])


def write_pictures(path, shape, count):
    """Write so many PNG files. Returns their folder."""
    path.mkdir()
    for number in range(count):
        imageio.imwrite(path / f"{number:03d}.png", draw(shape)[number % DIFFERENT])
    return path


def write_video(path, shape, count):
    """Write so many frames of H.264, a pan, with PyAV. Returns the file's path, PATH.mp4."""
    path = path.with_suffix(".mp4")
    with imageio.imopen(path, "w", plugin="pyav") as video:
        video.init_video_stream("libx264", fps=FRAME_RATE)
        for number in range(count):
            video.write_frame(np.roll(draw(shape)[0], PAN * number, axis=1))
    return path
