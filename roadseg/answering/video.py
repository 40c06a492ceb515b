"""Read and write video frames with PyAV, the libraries of FFmpeg: https://pyav.basswood-io.com"""

import contextlib
import platform
from dataclasses import dataclass

import av
import numpy as np

from roadseg.errors import UserError

SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".ts", ".webm", ".wmv"),
)
CAMERA = "camera:"  # then its number
CAMERAS = {  # system: (FFmpeg's format, its name of a camera)
    "Linux": ("v4l2", "/dev/video{}"),
    "Darwin": ("avfoundation", "{}"),
    "Windows": ("dshow", "video={}"),
}
MISSING_SECONDS = 0.25  # a video may lack at its end and still count as complete
USUAL_RATE = 25  # frames a second, where the file does not say


@dataclass(frozen=True)
class Codec:
    """How frames are written: the container's suffix, and FFmpeg's names and options."""

    suffix: str
    name: str
    pixel_format: str
    odd_pixel_format: str  # for odd height or width: 4:2:0 needs even
    options: dict

    def encode(self, picture):
        """Convert uint8 [H, W, 3] or [H, W] to the codec's colours. Returns av.VideoFrame."""
        if picture.ndim == 2:
            return av.VideoFrame.from_ndarray(picture, "gray")
        odd = picture.shape[0] % 2 or picture.shape[1] % 2
        return av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
            format=self.odd_pixel_format if odd else self.pixel_format,
            dst_colorspace="ITU709",
            dst_color_range="MPEG",  # what players expect of H.264
        )


TO_WATCH = Codec(".mp4", "libx264", "yuv420p", "yuv444p", {"crf": "20", "preset": "veryfast"})
LOSSLESS_GREY = Codec(".mkv", "ffv1", "gray", "gray", {})
CODECS = {False: TO_WATCH, True: LOSSLESS_GREY}  # by lossless


class Video:
    """A video or a camera to read.

    path: a file, or "camera:0"; name: stem of its outputs. Iterating opens it and yields
    av.VideoFrames in display order, the first at time 0. Raises UserError if nothing can be read,
    and at the end if it is damaged or cut off.
    """

    def __init__(self, path, name=None):
        self.path, self.name = path, name
        self.rate = self.time_base = self.pixel_shape = None  # set by the first frame
        self.expected = 0  # frames; 0: unknown
        if not str(path).startswith(CAMERA):
            with contextlib.suppress(UserError), self._opened() as stream:
                rate = stream.average_rate or 0
                self.expected = stream.frames or round((_seconds(stream) or 0) * rate)

    @contextlib.contextmanager
    def _opened(self):
        try:
            with av.open(**_address(self.path)) as container:
                if not container.streams.video:
                    raise UserError(f"{self.path}: no video stream in this file")
                yield container.streams.video[0]
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"{self.path}: no video that can be read ({error.strerror}): empty, cut off, "
                "or not a video"
            ) from error

    def __iter__(self):
        with self._opened() as stream:
            # Not "FRAME": a thread may finish a damaged frame after it was yielded as good.
            stream.thread_type = "SLICE"
            self.rate, self.time_base = stream.average_rate or USUAL_RATE, stream.time_base
            self.pixel_shape = stream.sample_aspect_ratio
            frames, end, damaged = 0, 0.0, 0
            for frame in _in_time(_decode(stream)):
                damaged += frame is None or frame.is_corrupt
                if frame is not None:
                    frames += 1
                    end = float(frame.pts * stream.time_base)
                    end += float(frame.duration * stream.time_base) or 1 / self.rate
                    yield frame
            self._expect_whole(frames, end, _seconds(stream) or end, damaged)

    def _expect_whole(self, frames, end, seconds, damaged):
        """Raise UserError unless all frames were found and undamaged."""
        if not frames:
            raise UserError(f"{self.path}: no frame of this video can be read")
        if seconds - end > MISSING_SECONDS:
            raise UserError(
                f"{self.path}: cut off after {end:.1f} of {seconds:.1f} seconds; its {frames} "
                "frames are done"
            )
        if damaged:
            raise UserError(f"{self.path}: damaged in {damaged} places; the other frames are done")

    @staticmethod
    def read(frame):
        """Convert a frame to uint8 [H, W, 3], rotated upright."""
        picture = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(picture, frame.rotation // 90))

    def suffix(self, lossless):
        """Return the suffix of an output."""
        return CODECS[lossless].suffix

    def encode(self, picture, lossless):
        """Return av.VideoFrame of uint8 [H, W, 3] or [H, W]."""
        return CODECS[lossless].encode(picture)

    def writing(self, path, lossless):
        """Return a context manager that gives write(encoded, frame)."""
        return VideoWriter(path, CODECS[lossless], self)


def _address(path):
    """Return the arguments of av.open for a video or a camera."""
    if not str(path).startswith(CAMERA):
        return {"file": str(path)}
    number = str(path).removeprefix(CAMERA)
    form, name = CAMERAS.get(platform.system(), CAMERAS["Linux"])
    if form == "dshow" and number.isdecimal():
        cameras = [
            device.name
            for device in av.device.enumerate_input_devices(form)
            if "video" in device.media_types
        ]
        number = dict(enumerate(cameras)).get(int(number), number)
    return {"file": name.format(number), "format": form}


def _seconds(stream):
    """Return the duration that the file states, or None."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if length := stream.metadata.get("DURATION"):  # Matroska's: hours:minutes:seconds
        return sum(60**place * float(part) for place, part in enumerate(length.split(":")[::-1]))
    return None


def _decode(stream):
    """Yield a stream's frames, None for each that is damaged."""
    packets = stream.container.demux(stream)
    while True:
        try:
            yield from next(packets).decode()
        except (StopIteration, av.EOFError):
            return
        except av.FFmpegError:
            yield None


def _in_time(frames):
    """Make times begin at 0 and increase: in some videos they are missing or repeat."""
    first, last = None, -1
    for frame in frames:
        if frame is not None:
            first = (frame.pts or 0) if first is None else first
            frame.pts = last = max(last + 1, (frame.pts or 0) - first)
        yield frame


class VideoWriter:
    """Context manager that writes pictures as a video, all in the size of the first.

    path: with the codec's suffix; codec: Codec; source: Video whose rate and times are copied, of
    which a frame has been read.
    """

    def __init__(self, path, codec, source):
        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream(codec.name, source.rate, options=codec.options)
        self.source = source

    def _set_up(self, context, frame):
        self.stream.time_base = context.time_base = self.source.time_base
        if self.source.pixel_shape:
            context.sample_aspect_ratio = self.source.pixel_shape
        context.width, context.height = frame.width, frame.height
        context.pix_fmt = frame.format.name
        context.colorspace, context.color_range = frame.colorspace, frame.color_range
        context.color_primaries = context.color_trc = frame.colorspace

    def __enter__(self):
        def write(encoded, frame):
            context = self.stream.codec_context
            if not context.is_open:
                self._set_up(context, encoded)
            elif (encoded.height, encoded.width) != (context.height, context.width):
                size = {"width": context.width, "height": context.height}
                encoded = encoded.reformat(
                    **size, interpolation="POINT"
                )  # class numbers must not be mixed
            encoded.pts, encoded.duration = frame.pts, frame.duration or 0
            encoded.time_base = self.source.time_base
            self.container.mux(self.stream.encode(encoded))

        return write

    def __exit__(self, *failure):
        if self.stream.codec_context.is_open:
            self.container.mux(self.stream.encode(None))
        self.container.close()
