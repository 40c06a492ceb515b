"""Copy the sound of a video beside what is made of its pictures."""

import contextlib

try:
    import av
except ImportError:  # pictures are answered without it
    av = None

RESTART_SECONDS = 0.3  # times that fall by more begin anew, as in files that were joined
JUMP_SECONDS = 1.0  # sound that is so long after the last picture was not meant to be there


class Sound:
    """The sound of a video, copied packet by packet beside the pictures that are made of it."""

    def __init__(self, source, container):
        """source: Video that is being read; container: to write to."""
        self.source, self.next, self.packets = source, None, iter(())
        self.heard, self.end = {}, 0.0  # seconds: of each stream's last packet; where sound ends
        if not source.is_file:
            return
        self.input, self.copies = av.open(str(source.path), metadata_errors="replace"), {}
        for stream in self.input.streams.audio:
            if not stream.sample_rate:
                self._tell("is empty")
                continue
            try:
                self.copies[stream.index] = container.add_stream_from_template(stream)
            except (av.FFmpegError, ValueError):
                name = stream.codec_context.name
                source.notes.append(f"{source.path}: its sound ({name}) does not fit into .mp4")
        if self.copies:
            self.packets = self.input.demux([self.input.streams[i] for i in self.copies])

    def copy_until(self, seconds, container):
        """Copy what is heard up to a time of the pictures."""
        while (packet := self.next or self._read()) is not None:
            self.next = packet
            if packet.pts is not None:
                heard = self._time_of(packet)
                if heard > seconds:
                    return
                if heard < self.heard.get(packet.stream.index, heard) - RESTART_SECONDS:
                    self._tell("begins anew, as in files that were joined: the rest is left out")
                    self.next, self.packets = None, iter(())
                    return
                self._copy(packet, heard, container)
            self.next = None

    def _copy(self, packet, heard, container):
        self.heard[packet.stream.index] = heard
        self.end = max(self.end, heard + float((packet.duration or 0) * packet.time_base))
        shift = round(self.source.start_seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, (packet.dts or packet.pts) - shift
        packet.stream = self.copies[packet.stream.index]
        if packet.pts >= 0:
            with self._telling():
                container.mux(packet)

    def finish(self, seconds, container):
        """Copy the rest up to the end of the pictures; tell what a damaged time hid."""
        self.copy_until(seconds, container)
        if self.next is not None:
            expected = max(seconds, self.end, self.source.expected / self.source.rate)
            if (heard := self._time_of(self.next)) > expected + JUMP_SECONDS:
                self._tell(f"goes from {self.end:.1f} to {heard:.1f} s: the rest is left out")

    def _time_of(self, packet):
        return float(packet.pts * packet.time_base) - self.source.start_seconds

    def _read(self):
        with self._telling():
            return next(self.packets, None)

    @contextlib.contextmanager
    def _telling(self):
        """Leave out what is damaged, and tell it once."""
        try:
            yield
        except (av.FFmpegError, IndexError):  # the latter: streams that begin later
            self._tell("is damaged: parts of it are left out")

    def _tell(self, what):
        note = f"{self.source.path}: its sound {what}"
        if note not in self.source.notes:
            self.source.notes.append(note)
