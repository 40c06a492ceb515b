"""Read and write video frames with PyAV, the libraries of FFmpeg: https://pyav.basswood-io.com"""

import contextlib
import platform
import threading
from dataclasses import dataclass

import numpy as np

from roadseg.answering.sound import RESTART_SECONDS, Sound
from roadseg.errors import UserError
from roadseg.terminal import counted

try:
    import av
except ImportError:  # pictures are answered without it
    av = None

SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".h264", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".ogv", ".ts", ".webm", ".wmv", ".gif"),
)
CAMERA = "camera:"  # then its number
STREAMS = ("rtsp://", "rtmp://", "http://", "https://", "udp://", "tcp://")
CAMERAS = {  # system: (FFmpeg's format, its name of a camera)
    "Linux": ("v4l2", "/dev/video{}"),
    "Darwin": ("avfoundation", "{}"),
    "Windows": ("dshow", "video={}"),
}
MISSING_SECONDS = 0.25  # a video may lack at its end and still count as complete
NO_FILMS = ("tty",)  # FFmpeg would show any text as a film of letters
USUAL_RATE = 25  # frames a second, where the file does not say
# Without a frame, after which a camera or a stream is given up: before its first one, which takes
# FFmpeg 11 s where one comes each second, and later.
SILENT_SECONDS = (60.0, 20.0)


@dataclass(frozen=True)
class Codec:
    """How frames are written: the container's suffix, and FFmpeg's names and options."""

    suffix: str
    name: str
    pixel_format: str
    options: dict
    has_sound: bool  # whether the source's sound is copied beside the pictures

    def encode(self, picture):
        """Convert uint8 [H, W, 3] or [H, W] to the codec's colours. Returns av.VideoFrame."""
        if picture.ndim == 2:
            return av.VideoFrame.from_ndarray(picture, "gray")
        # 4:2:0, all that every player shows, needs even sizes: the border pixel is repeated.
        even = [(0, size % 2) for size in picture.shape[:2]]
        picture = np.pad(picture, [*even, (0, 0)], mode="edge")
        return av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
            format=self.pixel_format,
            dst_colorspace="ITU709",
            dst_color_range="MPEG",  # what players expect of H.264
        )


# "superfast" takes .6 of the time of "veryfast"; two films got 1.25 and 1.8 times as large.
TO_WATCH = Codec(".mp4", "libx264", "yuv420p", {"crf": "20", "preset": "superfast"}, True)
LOSSLESS_GREY = Codec(".mkv", "ffv1", "gray", {}, False)
CODECS = {False: TO_WATCH, True: LOSSLESS_GREY}  # by lossless


class Video:
    """A video or a camera to read.

    path: a file, or "camera:0"; name: stem of its outputs. Iterating opens it and yields
    av.VideoFrames in display order, the first at time 0. Raises UserError if nothing can be read,
    and at the end if it is damaged or cut off. notes: lines about what is left out.
    """

    def __init__(self, path, name=None):
        if av is None:
            raise UserError(f"{path}: a video needs PyAV, which is missing: pip install av")
        self.path, self.name = path, name
        self.rate = self.time_base = self.pixel_shape = None  # set by the first frame
        self.start_seconds = 0.0  # of the first frame, in the file's own time
        self.expected = 0  # frames; 0: unknown
        self.notes = []
        if self.is_file:
            with contextlib.suppress(UserError), self._opened() as stream:
                rate = stream.average_rate or 0
                self.expected = stream.frames or round((_seconds(stream) or 0) * rate)

    @property
    def is_file(self):
        """Whether it can be read again; a camera or a stream can't."""
        return not str(self.path).startswith((CAMERA, *STREAMS))

    @contextlib.contextmanager
    def _opened(self):
        try:
            with av.open(**_address(self.path), metadata_errors="replace") as container:
                if container.format.name in NO_FILMS:
                    raise UserError(
                        f"{self.path}: neither a picture nor a video; give another file"
                    )
                pictures = av.stream.Disposition.attached_pic  # covers, as of music
                films = [s for s in container.streams.video if not s.disposition & pictures]
                if not films:
                    raise UserError(f"{self.path}: no video stream in this file; give another")
                if len(films) > 1:
                    self.notes = [f"{self.path}: holds {len(films)} videos; the first is done"]
                yield films[0]
        except (av.FFmpegError, OSError) as error:
            reason = error.strerror
            raise UserError(
                f"{self.path}: no video that can be read ({reason}): empty, cut off, or not a video"
                if self.is_file
                else f"{self.path}: no camera or stream answers there ({reason})"
            ) from error

    def __iter__(self):
        if self.is_file:
            yield from self._frames()
            return
        newest = Newest(self._frames(), SILENT_SECONDS)
        try:
            yield from newest
        except TimeoutError as error:
            raise UserError(
                f"{self.path}: no frame for {error} seconds; is it still on?"
            ) from error
        finally:
            if count := newest.dropped:
                self.notes.append(
                    f"{self.path}: {counted(count, 'frame')} came too fast and were left out"
                )

    def _frames(self):
        with self._opened() as stream:
            # Not "FRAME": a thread may finish a damaged frame after it was yielded as good.
            stream.thread_type = "SLICE"
            self.rate, self.time_base = stream.average_rate or USUAL_RATE, stream.time_base
            self.pixel_shape = stream.sample_aspect_ratio
            frames, end, damaged = 0, 0.0, 0
            for frame in self._in_time(_decode(stream)):
                damaged += frame is None or frame.is_corrupt
                if frame is not None:
                    frames += 1
                    end = float(frame.pts * stream.time_base)
                    end += float(frame.duration * stream.time_base) or 1 / self.rate
                    yield frame
            self._expect_whole(frames, end, _seconds(stream) or end, damaged)

    def _in_time(self, frames):
        """Make times begin at 0 and increase: in some videos they are missing, repeat or restart.

        A raw stream has none at all; its frames follow one another at the stream's rate.
        """
        first, last, step = None, -1, round(1 / (self.rate * self.time_base))
        restart = RESTART_SECONDS / self.time_base
        for frame in frames:
            if frame is not None:
                if frame.pts is None:
                    frame.pts = 0 if last < 0 else first + last + (frame.duration or step)
                if first is None:
                    first, self.start_seconds = frame.pts, float(frame.pts * self.time_base)
                if frame.pts - first < last - restart:
                    first = frame.pts - last - (frame.duration or step)
                frame.pts = last = max(last + 1, frame.pts - first)
            yield frame

    def _expect_whole(self, frames, end, seconds, damaged):
        """Raise UserError unless all frames were found and undamaged."""
        if not frames:
            raise UserError(f"{self.path}: no frame of this video can be read")
        if seconds - end > MISSING_SECONDS:
            raise UserError(
                f"{self.path}: cut off after {end:.1f} of {seconds:.1f} seconds; done until there: "
                f"{counted(frames, 'frame')}"
            )
        if damaged:
            places = counted(damaged, "place")
            raise UserError(f"{self.path}: damaged in {places}; the other frames are done")

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
    if length := stream.metadata.get("DURATION"):  # Matroska's: hours:minutes:seconds at its end
        parts = enumerate(length.split(":")[::-1])
        end = sum(60**place * float(part) for place, part in parts)
        return end - float((stream.start_time or 0) * stream.time_base)
    return None


def _decode(stream):
    """Yield a stream's frames, None for each that is damaged."""
    packets = stream.container.demux(stream)
    while True:
        try:
            yield from next(packets).decode()
        except (StopIteration, av.EOFError):
            return
        except (av.FFmpegError, IndexError):  # the latter: streams that begin later
            yield None


class Newest:
    """Iterates over what another iterator gives, always at the newest; what is older is dropped.

    A thread reads on meanwhile. dropped: how many were left out. Errors of the iterator are raised
    here, and TimeoutError where nothing comes for some seconds: before the first item, and later.
    """

    def __init__(self, items, seconds):
        self.items, self.seconds, self.dropped = items, seconds, 0
        self.slot, self.changed, self.error = [], threading.Condition(), None
        self.is_open = True

    def __iter__(self):
        thread = threading.Thread(target=self._read, daemon=True)
        thread.start()
        limit, later = self.seconds
        try:
            while True:
                with self.changed:
                    if not self.changed.wait_for(self._is_ready, limit):
                        raise TimeoutError(f"{limit:g}")
                    if not self.slot:
                        break
                    item = self.slot.pop()
                limit = later
                yield item
        finally:
            self.is_open = False
        if self.error:
            raise self.error

    def _is_ready(self):
        return self.slot or not self.is_open

    def _read(self):
        try:
            for item in self.items:
                with self.changed:
                    self.dropped += len(self.slot)
                    self.slot[:] = [item]
                    self.changed.notify()
                if not self.is_open:
                    break
        except Exception as error:
            self.error = error
        with self.changed:
            self.is_open = False
            self.changed.notify()


@contextlib.contextmanager
def _as_disk_error():
    """Turn an error of FFmpeg into an OSError, which ends one output alone."""
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


class VideoWriter:
    """Context manager that writes pictures as a video, all in the size of the first.

    path: with the codec's suffix; codec: Codec; source: Video whose rate and times are copied, of
    which a frame has been read.
    """

    def __init__(self, path, codec, source):
        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream(codec.name, source.rate, options=codec.options)
        self.source, self.seconds = source, 0.0
        self.sound = Sound(source, self.container) if codec.has_sound else None

    def _set_up(self, context, frame):
        self.stream.time_base = context.time_base = self.source.time_base
        if self.source.pixel_shape:
            context.sample_aspect_ratio = self.source.pixel_shape
        context.width, context.height = frame.width, frame.height
        context.pix_fmt = frame.format.name
        context.colorspace, context.color_range = frame.colorspace, frame.color_range
        context.color_primaries = context.color_trc = frame.colorspace

    def __enter__(self):
        return self.write

    @_as_disk_error()
    def write(self, encoded, frame):
        """Write an av.VideoFrame at the time of the source's frame. Raises OSError."""
        context = self.stream.codec_context
        if not context.is_open:
            self._set_up(context, encoded)
        elif (encoded.height, encoded.width) != (context.height, context.width):
            size = {"width": context.width, "height": context.height}
            # Class numbers must not be mixed.
            encoded = encoded.reformat(**size, interpolation="POINT")
        encoded.pts, encoded.duration = frame.pts, frame.duration or 0
        encoded.time_base = self.source.time_base
        self.container.mux(self.stream.encode(encoded))
        self.seconds = float(frame.pts * self.source.time_base)
        if self.sound:
            self.sound.copy_until(self.seconds, self.container)

    @_as_disk_error()
    def __exit__(self, kind, *_):
        try:
            if self.stream.codec_context.is_open and kind is None:
                self.container.mux(self.stream.encode(None))
                if self.sound:
                    self.sound.finish(self.seconds + 1 / self.source.rate, self.container)
        finally:
            self.container.close()
